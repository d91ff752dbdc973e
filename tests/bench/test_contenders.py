"""A contender whose programs do not run takes part all the same, and says why."""

from pathlib import Path

from bench.contenders import ProgramContender, Programs

WHY = "no node at bob: it needs a compiler"


async def test_a_host_without_a_program_fails_every_try_that_needs_it() -> None:
    programs = Programs(Path("python"), "bench.bare")
    programs.problems["bob"] = WHY
    contender = ProgramContender(programs)
    for pair in (("alice", "bob"), ("bob", "alice")):
        ended = await contender.connect(*pair)
        assert (ended.first_byte_ms, ended.error) == (None, WHY)
    assert await contender.sockets("alice", "bob") == 0
    assert (contender.nodes, contender.processes()) == (0, [])
    assert await programs.pipe("alice", "bob", None) == {"error": WHY}


async def test_a_target_stands_in_for_every_responder() -> None:
    programs = Programs(Path("python"), "bench.bare")
    programs.problems["open"] = WHY
    contender = ProgramContender(programs, target="open")
    assert contender.peer_of("bob") == "open"
    assert (await contender.connect("alice", "bob")).error == WHY
