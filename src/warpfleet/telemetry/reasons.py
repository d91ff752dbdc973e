"""A sentence for each reason and each term, for people who have read neither the code nor the RFCs."""

from warpfleet.core.combo import Reason
from warpfleet.core.nat import Filtering, Mapping, PortAssignment

SENTENCES = {
    Reason.NO_COMMON_FAMILY: "the two nodes have no address of the same IP version",
    Reason.NO_ADDRESS: "the peer's record lists no address of this IP version and kind",
    Reason.NOT_SAME_MACHINE: "the nodes are on different machines, so the loopback address leads nowhere",
    Reason.NOT_SAME_NETWORK: "the nodes are not on the same local network, so interface addresses do not reach",
    Reason.NOT_LISTENING: "the side to be dialled has no listening port",
    Reason.NAT_RULES_OUT: "the behaviour of the two NATs makes success by this technique impossible or too unlikely",
    Reason.UDP_BLOCKED: "UDP does not get through for at least one of the nodes",
    Reason.EXPERIENCE_RULES_OUT: "it was tried often enough of late, by any node of the fleet, and never worked",
    Reason.NO_RELAY: "no TURN relay is configured",
    Reason.OPTED_OUT: "the plugin declared itself not usable on this node",
    Reason.NOT_NEEDED: "a pipe was already there before its turn came",
    Reason.REFUSED: "the other host was reached and refused the connection (TCP RST): nothing listens there",
    Reason.UNREACHABLE: "the network reported that there is no way to that address",
    Reason.RESET: "the connection was made and then reset by the other end or by something between",
    Reason.NO_ANSWER: "nothing came back in the time allowed: most often a NAT or firewall dropped the packets",
    Reason.PEER_UNAVAILABLE: "the peer did not acknowledge our signal in time: it is down, or away from the broker",
    Reason.PROOF_FAILED: "somebody answered, but could not prove to be the peer",
    Reason.STUN_FAILED: "no STUN server answered, so the external address could not be learnt",
    Reason.RELAY_REFUSED: "the TURN server refused the allocation (credentials, quota or permission)",
    Reason.RELAY_UNREACHABLE: "the TURN server could not be reached",
    Reason.TARGET_FORBIDDEN: "the address is one that must not be contacted this way (private, loopback or multicast)",
    Reason.BUDGET_SPENT: "the packet budget for this address was used up",
    Reason.OTHER_PIPE_WON: "another pipe was ready first, so this one was given up",
    Reason.STOPPED: "it was stopped by the user or by the end of the sweep",
    Reason.INTERRUPTED: "the sweep was killed or ended before it had finished",
    Reason.DEADLINE: "the time allowed for the whole connection had passed",
    Reason.ALL_FAILED: "everything that could be tried was tried, and none of it gave a pipe",
    Reason.ONLY_LONG_SHOTS: "what could be tried was unlikely to work between these NATs, and did not work",
    Reason.REFRESHED: "it brought the peer's current address record, and was never to give a pipe",
    Reason.PEER_CLOSED: "the other end gave this attempt up",
    Reason.NOTHING_TO_TRY: "no technique applied to this pair",
    Reason.NO_RECORD: "no valid address record of the peer was found on the signal channel",
    Reason.UNTRUSTED: "the peer is not among those that the configuration trusts",
    Reason.ACTOR_DIED: "the process that ran it died",
    Reason.INTERNAL: "a plugin broke: the log of its process has the error",
}

MAPPINGS = {
    Mapping.EIM: "one external port for every destination",
    Mapping.ADM: "a new external port for each destination address",
    Mapping.APDM: "a new external port for each destination address and port",
    Mapping.UNKNOWN: "not found out how external ports are chosen",
}

FILTERINGS = {
    Filtering.EIF: "lets anybody in on a port that is open",
    Filtering.ADF: "lets in only addresses that were sent to before",
    Filtering.APDF: "lets in only the exact address and port that were sent to before",
    Filtering.UNKNOWN: "not found out whom it lets in",
}

PORTS = {
    PortAssignment.PRESERVING: "keeps the local port number",
    PortAssignment.RANDOM: "picks ports at random",
    PortAssignment.SEQUENTIAL: "counts ports up",
    PortAssignment.UNKNOWN: "not found out how it numbers ports",
}


def sentence(reason: Reason | None) -> str:
    """Why, in plain English; says so where no reason was recorded."""
    return SENTENCES[reason] if reason else "no reason was recorded"
