"""The kernel's sockets on loopback: what is promised of queues, ends, errors, and of being taken out."""

import asyncio
import socket
import sys
from collections.abc import AsyncIterator

import pytest

from warpfleet.core.endpoint import Endpoint
from warpfleet.net.interfaces import ConnectionLost, ConnectRefused, DatagramSocket, Network, StreamEnded, Unreachable
from warpfleet.net.network import KernelNetwork
from warpfleet.net.plain import PlainPipe
from warpfleet.net.sockets import RECEIVE_QUEUE_DATAGRAMS, TcpListener, TcpStream, UdpSocket
from warpfleet.net.vantage import Vantage

HOME = "127.0.0.1"
DEADLINE_S = 5.0


@pytest.fixture
def network() -> KernelNetwork:
    return KernelNetwork(Vantage(address=HOME))


@pytest.fixture
async def listener(network: KernelNetwork) -> AsyncIterator[TcpListener]:
    listening = await network.listen_tcp(Endpoint("0.0.0.0", 0))
    yield listening
    listening.close()


@pytest.fixture
async def streams(network: KernelNetwork, listener: TcpListener) -> AsyncIterator[tuple[TcpStream, TcpStream]]:
    ours = await network.connect_tcp(listener.local, timeout_s=DEADLINE_S)
    theirs = await listener.accept()
    yield ours, theirs
    ours.close()
    theirs.close()


@pytest.fixture
async def pair(network: KernelNetwork) -> AsyncIterator[tuple[UdpSocket, UdpSocket]]:
    one, two = await network.open_udp(4), await network.open_udp(4)
    yield one, two
    one.close()
    two.close()


def test_the_kernels_network_has_the_interface_of_a_network(network: KernelNetwork) -> None:
    typed: Network = network
    assert [interface.ip for interface in typed.interfaces()] == [HOME]


async def test_a_datagram_arrives_with_its_source(pair: tuple[UdpSocket, UdpSocket]) -> None:
    one, two = pair
    one.send_to(b"hello", two.local)
    assert await two.receive() == (b"hello", one.local)
    assert (one.packets_sent, two.packets_sent) == (1, 0)


async def test_what_the_network_says_no_to_is_swallowed_and_not_counted(pair: tuple[UdpSocket, UdpSocket]) -> None:
    pair[0].send_to(b"no route from loopback", Endpoint("203.0.113.1", 9))
    pair[0].send_to(b"wrong family", Endpoint("::1", 9))
    pair[0].send_to(bytes(70_000), pair[1].local)
    assert pair[0].packets_sent == 0


async def test_a_queue_that_nobody_reads_keeps_the_newest(pair: tuple[UdpSocket, UdpSocket]) -> None:
    one, two = pair
    for number in range(RECEIVE_QUEUE_DATAGRAMS + 10):
        one.send_to(b"%d" % number, two.local)
        await asyncio.sleep(0)
    assert (await two.receive())[0] == b"10"


async def test_closing_ends_a_pending_receive(pair: tuple[UdpSocket, UdpSocket]) -> None:
    pending = asyncio.create_task(pair[0].receive())
    await asyncio.sleep(0)
    pair[0].close()
    pair[0].close()
    with pytest.raises(ConnectionLost):
        await pending
    with pytest.raises(ConnectionLost):
        await pair[0].receive()
    pair[0].send_to(b"after the end", pair[1].local)
    assert pair[0].packets_sent == 0


async def test_a_tap_keeps_what_it_wants_and_the_rest_is_queued(pair: tuple[UdpSocket, UdpSocket]) -> None:
    one, two = pair
    kept = []
    untap = two.tap(lambda data, source: data == b"mine" and not kept.append((data, source)))
    for data in (b"mine", b"yours"):
        one.send_to(data, two.local)
    assert await two.receive() == (b"yours", one.local)
    assert kept == [(b"mine", one.local)]
    untap()
    one.send_to(b"mine", two.local)
    assert await two.receive() == (b"mine", one.local)


async def test_a_udp_socket_is_taken_out_and_wrapped_again(pair: tuple[UdpSocket, UdpSocket]) -> None:
    one, two = pair
    again: DatagramSocket = UdpSocket.from_socket(two.detach())
    one.send_to(b"hello", again.local)
    assert (await again.receive())[0] == b"hello"
    with pytest.raises(ConnectionLost):
        two.detach()
    again.close()


async def test_a_taken_port_is_an_oserror(network: KernelNetwork, pair: tuple[UdpSocket, UdpSocket]) -> None:
    with pytest.raises(OSError, match="in use"):
        await network.open_udp(4, pair[0].local.port)


async def test_an_address_has_no_other_family(network: KernelNetwork) -> None:
    with pytest.raises(Unreachable):
        await network.open_udp(6)


async def test_ipv6_sockets() -> None:
    network = KernelNetwork(Vantage(address="::1"))
    listener = await network.listen_tcp(Endpoint("::", 0))
    stream = await network.connect_tcp(listener.local, timeout_s=DEADLINE_S)
    assert (listener.local.ip, stream.remote) == ("::1", listener.local)
    stream.close()
    listener.close()


async def test_streams_carry_bytes_both_ways(streams: tuple[TcpStream, TcpStream]) -> None:
    ours, theirs = streams
    assert (ours.local, ours.remote) == (theirs.remote, theirs.local)
    await ours.write(b"request")
    assert await theirs.read_exactly(7) == b"request"
    await theirs.write(b"answer")
    assert await ours.read(3) == b"ans"
    assert await ours.read(100) == b"wer"


async def test_a_write_larger_than_every_buffer(streams: tuple[TcpStream, TcpStream]) -> None:
    ours, theirs = streams
    data = bytes(range(256)) * 65_536
    _, received = await asyncio.gather(ours.write(data), theirs.read_exactly(len(data)))
    assert received == data


async def test_the_peers_end_is_connection_lost(streams: tuple[TcpStream, TcpStream]) -> None:
    ours, theirs = streams
    await theirs.write(b"half")
    theirs.close()
    with pytest.raises(ConnectionLost):
        await ours.read_exactly(8)


async def test_one_way_ends_and_the_other_goes_on(streams: tuple[TcpStream, TcpStream]) -> None:
    ours, theirs = streams
    question, answer = bytes(range(256)) * 20_000, bytes(range(255, -1, -1)) * 20_000

    async def ask() -> None:
        await ours.write(question)
        ours.write_eof()

    _, asked = await asyncio.gather(ask(), theirs.read_exactly(len(question)))
    with pytest.raises(StreamEnded):
        await theirs.read(1)
    _, answered = await asyncio.gather(theirs.write(answer), ours.read_exactly(len(answer)))
    assert (asked, answered) == (question, answer)


async def test_what_is_closed_behind_its_end_arrives_whole(streams: tuple[TcpStream, TcpStream]) -> None:
    ours, theirs = streams
    ours.reset_on_close()
    data = bytes(100_000)  # less than the buffers have room for: nobody waits for the reader
    await ours.write(data)
    ours.write_eof()
    ours.close()
    assert await theirs.read_exactly(len(data)) == data
    with pytest.raises(StreamEnded):
        await theirs.read(1)


async def test_closed_without_an_end_a_stream_may_be_reset(streams: tuple[TcpStream, TcpStream]) -> None:
    ours, theirs = streams
    ours.reset_on_close()
    await ours.write(b"half")
    assert await theirs.read(4) == b"half"
    ours.close()
    with pytest.raises(ConnectionLost) as lost:
        await theirs.read(1)
    assert not isinstance(lost.value, StreamEnded)
    with pytest.raises(ConnectionLost):
        theirs.write_eof()


_HALF = """
import asyncio, socket, sys, time
from warpfleet.net.plain import PlainPipe
from warpfleet.net.sockets import TcpStream

async def main():
    opened = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
    opened.setblocking(False)
    await PlainPipe(TcpStream(opened), "bob").send(b"half")
    time.sleep(60)

asyncio.run(main())
"""


async def test_a_plain_pipe_whose_process_is_killed_is_broken(listener: TcpListener) -> None:
    sender = await asyncio.create_subprocess_exec(sys.executable, "-c", _HALF, str(listener.local.port))
    try:
        pipe = PlainPipe(await asyncio.wait_for(listener.accept(), 30), "alice")
        assert await pipe.recv() == b"half"
    finally:
        sender.kill()
        await sender.wait()
    with pytest.raises(ConnectionLost):
        await pipe.recv()
    await pipe.close()


async def test_closing_ends_a_pending_read_and_a_pending_write(streams: tuple[TcpStream, TcpStream]) -> None:
    ours, _ = streams
    pending = [asyncio.create_task(ours.read(1)), asyncio.create_task(ours.write(bytes(32 * 1024 * 1024)))]
    await asyncio.sleep(0)
    ours.close()
    results = await asyncio.gather(*pending, return_exceptions=True)
    assert [type(result) for result in results] == [ConnectionLost, ConnectionLost]


async def test_a_cancelled_read_leaves_the_stream_whole(streams: tuple[TcpStream, TcpStream]) -> None:
    ours, theirs = streams
    pending = asyncio.create_task(ours.read(1))
    await asyncio.sleep(0)
    pending.cancel()
    await asyncio.gather(pending, return_exceptions=True)
    await theirs.write(b"x")
    assert await ours.read(1) == b"x"


async def test_only_one_task_may_read(streams: tuple[TcpStream, TcpStream]) -> None:
    ours, _ = streams
    pending = asyncio.create_task(ours.read(1))
    await asyncio.sleep(0)
    with pytest.raises(RuntimeError):
        await ours.read(1)
    pending.cancel()
    await asyncio.gather(pending, return_exceptions=True)


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
async def test_the_number_of_a_stream_that_nobody_closed_is_anothers(
    network: KernelNetwork, listener: TcpListener
) -> None:
    forgotten = await network.connect_tcp(listener.local, timeout_s=DEADLINE_S)
    accepted = await listener.accept()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(forgotten.read(1), 0.01)
    number = forgotten._ready.socket.fileno()
    del forgotten
    following = await network.connect_tcp(listener.local, timeout_s=DEADLINE_S)
    assert following._ready.socket.fileno() == number
    other = await listener.accept()
    _, data = await asyncio.gather(other.write(b"x"), following.read(1))
    assert data == b"x"
    for stream in (following, other, accepted):
        stream.close()


async def test_a_stream_is_taken_out_with_every_unread_byte(streams: tuple[TcpStream, TcpStream]) -> None:
    ours, theirs = streams
    await theirs.write(b"read, unread")
    assert await ours.read_exactly(6) == b"read, "
    again = TcpStream.from_socket(ours.detach())
    assert await again.read_exactly(6) == b"unread"
    again.close()


async def test_both_ends_of_a_stream_look_whether_the_other_is_still_there(
    streams: tuple[TcpStream, TcpStream],
) -> None:
    for stream in streams:
        with stream.detach() as taken:
            assert taken.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            idle_s, interval_s, probes = (
                taken.getsockopt(socket.IPPROTO_TCP, option)
                for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
            )
            assert idle_s + interval_s * probes <= 30


async def test_nagle_is_off(streams: tuple[TcpStream, TcpStream]) -> None:
    for stream in streams:
        with stream.detach() as taken:
            assert taken.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_nobody_listening_is_refused(network: KernelNetwork, listener: TcpListener) -> None:
    listener.close()
    with pytest.raises(ConnectRefused):
        await network.connect_tcp(listener.local, timeout_s=DEADLINE_S)


async def test_no_route_is_unreachable(network: KernelNetwork) -> None:
    with pytest.raises(Unreachable):
        await network.connect_tcp(Endpoint("203.0.113.1", 9), timeout_s=DEADLINE_S)


async def test_no_answer_is_a_timeout(network: KernelNetwork) -> None:
    full = Vantage(address=HOME).open(4, socket.SOCK_STREAM, port=0)
    full.listen(0)
    remote = Endpoint(*full.getsockname()[:2])
    waiting = [await network.connect_tcp(remote, timeout_s=DEADLINE_S)]  # the backlog's one place
    with pytest.raises(TimeoutError):
        await network.connect_tcp(remote, timeout_s=0.05)
    for stream in waiting:
        stream.close()
    full.close()


async def test_crossing_connects_from_shared_ports_meet(network: KernelNetwork) -> None:
    """A listener and a stream share a port, as a simultaneous open needs it."""
    listening = await network.listen_tcp(Endpoint(HOME, 0), shared=True)
    far = await network.listen_tcp(Endpoint(HOME, 0))
    stream = await network.connect_tcp(far.local, timeout_s=DEADLINE_S, local_port=listening.local.port)
    assert stream.local == listening.local
    for closing in (stream, far, listening):
        closing.close()


async def test_a_second_connect_on_one_4_tuple_is_no_false_success(
    network: KernelNetwork, listener: TcpListener
) -> None:
    first = await network.connect_tcp(listener.local, timeout_s=DEADLINE_S, local_port=0)
    with pytest.raises(Unreachable):
        await network.connect_tcp(listener.local, timeout_s=DEADLINE_S, local_port=first.local.port)
    first.close()


async def test_closing_a_listener_ends_a_pending_accept(listener: TcpListener) -> None:
    pending = asyncio.create_task(listener.accept())
    await asyncio.sleep(0)
    listener.close()
    with pytest.raises(ConnectionLost):
        await pending
