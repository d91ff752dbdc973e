"""Each contender of the comparison on loopback carries bytes."""

import pytest

from bench import loopback


@pytest.mark.parametrize(
    "contender",
    [
        loopback.tls_pipe,
        loopback.ssl_stream,
        loopback.quic_pipe,
        loopback.aioquic_stream,
        loopback.plain_pipe,
        loopback.bare_socket,
    ],
)
async def test_every_contender_carries_what_is_measured(
    contender: loopback.Contender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loopback, "ROUNDS", 3)
    round_trip_us, throughput_mb_s = await loopback.measured(contender, 2 * loopback.CHUNK_BYTES)
    assert round_trip_us > 0
    assert throughput_mb_s > 0
