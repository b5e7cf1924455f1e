import asyncio
from stem import InMemoryBroker, Stem, StemSignals
app=Stem(broker=InMemoryBroker())
@app.task("t")
async def t()->int: return 1
async def bye(e,c): await asyncio.sleep(3600)
StemSignals.on_worker_shutdown(bye)
