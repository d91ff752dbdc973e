"""UDP hole punching: both sides send to each other's external endpoints until the filters are open."""

from warpfleet.plugins.udp_punch.run import UdpPunch

__all__ = ["UdpPunch"]
