"""The whole adapter contract, for `class TestMyBroker(BrokerContract)` with a fixture `broker_case`.

Needs pytest and pytest-asyncio (`asyncio_mode = "auto"`). To see values in failing assertions, have pytest rewrite the
suite's own: `pytest.register_assert_rewrite("stem.testing")` before it is imported.
"""

from stem.testing.case import BrokerCase
from stem.testing.contract_adoption import BrokerContractAdopt
from stem.testing.contract_audit import BrokerContractAudit, BrokerContractExamine
from stem.testing.contract_clock import BrokerContractClock
from stem.testing.contract_control import (
    BrokerContractControlLog,
    BrokerContractDesired,
    BrokerContractFence,
    BrokerContractPresence,
    BrokerContractReplies,
    BrokerContractWakeUp,
)
from stem.testing.contract_enqueued import BrokerContractTimeOfEnqueue
from stem.testing.contract_expiry import BrokerContractExpiry
from stem.testing.contract_large import BrokerContractLargeBodies
from stem.testing.contract_leases import BrokerContractReclaim, BrokerContractRenew
from stem.testing.contract_listings import BrokerContractListings
from stem.testing.contract_observing import (
    BrokerContractCounts,
    BrokerContractEvents,
    BrokerContractHistory,
    BrokerContractRedaction,
)
from stem.testing.contract_operating import BrokerContractDeadLetters, BrokerContractWaitingTasks
from stem.testing.contract_producing import (
    BrokerContractDue,
    BrokerContractEnqueue,
    BrokerContractOrder,
    BrokerContractQueueLimit,
    BrokerContractUnique,
)
from stem.testing.contract_record import BrokerContractRecord, BrokerContractRepeatedIssue
from stem.testing.contract_repeated import BrokerContractRepeated
from stem.testing.contract_results import ResultBackendContract
from stem.testing.contract_steering import BrokerContractPause, BrokerContractRevoke
from stem.testing.contract_told import BrokerContractTold
from stem.testing.contract_waiting import BrokerContractHandles, BrokerContractIdle, BrokerContractWait
from stem.testing.contract_working import BrokerContractFetch, BrokerContractSettle

__all__ = ["BrokerCase", "BrokerContract", "ResultBackendContract"]


class BrokerContract(
    BrokerContractEnqueue,
    BrokerContractOrder,
    BrokerContractDue,
    BrokerContractUnique,
    BrokerContractQueueLimit,
    BrokerContractExpiry,
    BrokerContractFetch,
    BrokerContractSettle,
    BrokerContractTold,
    BrokerContractIdle,
    BrokerContractWait,
    BrokerContractHandles,
    BrokerContractReclaim,
    BrokerContractRenew,
    BrokerContractClock,
    BrokerContractAdopt,
    BrokerContractLargeBodies,
    BrokerContractTimeOfEnqueue,
    BrokerContractRepeated,
    BrokerContractDeadLetters,
    BrokerContractWaitingTasks,
    BrokerContractPause,
    BrokerContractRevoke,
    BrokerContractRecord,
    BrokerContractRepeatedIssue,
    BrokerContractControlLog,
    BrokerContractFence,
    BrokerContractDesired,
    BrokerContractWakeUp,
    BrokerContractReplies,
    BrokerContractPresence,
    BrokerContractAudit,
    BrokerContractExamine,
    BrokerContractEvents,
    BrokerContractCounts,
    BrokerContractListings,
    BrokerContractHistory,
    BrokerContractRedaction,
):
    """Everything a broker promises."""
