"""The fault matrix: what is done to workers, servers and wires under load, and what must hold of the tasks afterwards.

A *family* is one kind of fault. It is written once and runs at two scales: `share` is its part in `make test`
(tests/faults/test_matrix.py), `full` is `make faults` (`python -m tests.faults`), which prints the table that stands in
docs/reliability.md. A family module registers coroutines:

    @family("T-F4", "server: kill -9 and restart", share_s=20)
    async def server_killed(stage: Stage) -> list[Row]:
        server = stage.server(aof=True)
        world = await stage.world(server.url, workers=3)
        async with Load(world, stage.random) as load:
            for _ in range(stage.times(full=30, share=2)):
                await asyncio.sleep(stage.random.uniform(0.2, 0.6))
                async with world.disturbed():       # whatever runs now may be started once more (I4)
                    server.kill9()
                    server.start()
        verdict = await judge(world)                # heal first; waits for the end of every task and checks I1 to I6
        return [stage.row(verdict, injected="30 kills of the server")]

Rules: stage.py ends every process and removes every folder; an expectation of the family itself is an `assert` or
`verdict.expect(...)`; nothing is retried because it failed; what a fault is allowed to cost is said in numbers.
"""
