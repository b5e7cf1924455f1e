"""What Stem gives to tests: a clock that stands still, and the contract that every adapter must keep.

`FakeClock` needs nothing. The contract suite (`stem.testing.contract`) needs pytest and pytest-asyncio; an adapter's
tests take the classes they want, and give the fixture `broker_case`:

    from stem.testing.contract import BrokerContract

    class TestMyBroker(BrokerContract):
        @pytest.fixture
        async def broker_case(self):
            async with MyCase() as case:  # a subclass of stem.testing.case.BrokerCase
                yield case
"""

from stem.testing.clock import FakeClock

__all__ = ["FakeClock"]
