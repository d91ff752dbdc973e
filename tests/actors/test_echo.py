"""Timing a pipe against its echo, over a network that loses and a peer that falls silent."""

import asyncio

import pytest

from fake_network import DELAY_S, Internet
from sealed import tls_pipes
from virtual_time import START_S, now_s, virtual_time
from warpfleet.actors.echo import echo, measure
from warpfleet.core.endpoint import Endpoint

A, B = Endpoint("203.0.113.1", 1), Endpoint("203.0.113.2", 2)


@virtual_time
async def test_three_rounds_over_a_stream() -> None:
    near, far = Internet().stream_pair(A, B)
    pipe, other = await tls_pipes(near, far)
    echoing = asyncio.create_task(echo(other))
    began_s = now_s()
    measured = await measure(pipe)
    assert measured is not None
    assert measured.first_byte_at_s - START_S - began_s == pytest.approx(2 * DELAY_S)
    assert measured.rtt_ms == pytest.approx(2000 * DELAY_S)
    assert now_s() - began_s == pytest.approx(6 * DELAY_S)
    await pipe.close()
    await echoing
    assert far.closed


@virtual_time
async def test_a_peer_that_never_echoes_costs_one_round() -> None:
    pipe, _ = await tls_pipes(*Internet().stream_pair(A, B))
    began_s = now_s()
    assert await measure(pipe) is None
    assert now_s() - began_s == pytest.approx(2)


@virtual_time
@pytest.mark.parametrize("orderly", [True, False])
async def test_a_pipe_that_ends_after_the_first_byte_has_still_been_measured(orderly: bool) -> None:
    near, far = Internet().stream_pair(A, B)
    pipe, other = await tls_pipes(near, far)

    async def echo_once() -> None:
        await other.send(await other.recv())
        if orderly:
            await other.close()
        far.close()

    echoing = asyncio.create_task(echo_once())
    measured = await measure(pipe)
    assert measured is not None
    assert measured.rtt_ms == pytest.approx(2000 * DELAY_S)
    await echoing


@virtual_time
async def test_the_echo_ends_when_nothing_comes_and_closes_its_pipe() -> None:
    pipe, other = await tls_pipes(*Internet().stream_pair(A, B))
    began_s = now_s()
    echoing = asyncio.create_task(echo(other))
    assert await pipe.recv() == b""
    assert now_s() - began_s == pytest.approx(40 + DELAY_S)
    await pipe.close()
    await echoing
