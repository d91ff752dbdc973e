"""TCP hole punching: both sides connect to each other's external endpoints at one instant."""

from warpfleet.plugins.tcp_punch.run import TcpPunch

__all__ = ["TcpPunch"]
