"""The message bus: one small protocol, over NATS in service and over memory in tests and simulations."""

from services.common.bus.base import (
    Bus,
    BusError,
    Handler,
    Message,
    NoResponders,
    PayloadTooLarge,
    RequestTimeout,
    Subscription,
)

__all__ = [
    "Bus",
    "BusError",
    "Handler",
    "Message",
    "NoResponders",
    "PayloadTooLarge",
    "RequestTimeout",
    "Subscription",
]
