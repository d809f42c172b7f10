"""The services as their heartbeats show them; for `up`, `status` and `check`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from services.cli import rundir
from services.common.bootstrap import nats_settings
from services.common.bus import Message
from services.common.bus.nats import NatsBus
from services.common.errors import ConfigError
from services.common.messages import events
from services.common.messages.codec import decode
from services.common.options import parse
from services.common.subjects import Subjects


@dataclass(slots=True)
class Fleet:
    """The last heartbeat of every instance."""

    beats: dict[str, events.Heartbeat] = field(default_factory=dict)

    async def on_message(self, message: Message) -> None:
        beat = decode(events.Heartbeat, message.data)
        known = self.beats.get(beat.instance_id)
        if known is None or known.epoch <= beat.epoch:
            self.beats[beat.instance_id] = beat

    def is_ready(self, instance_id: str) -> bool:
        beat = self.beats.get(instance_id)
        return beat is not None and beat.state == events.READY


async def connect(bus_env: Mapping[str, str], name: str) -> tuple[NatsBus, Subjects]:
    """A bus by the SHOAL_ settings in ``bus_env``. Raises BusError when NATS cannot be reached."""
    settings = parse("router", [], bus_env)
    return await NatsBus.connect(nats_settings(settings), name), Subjects(settings.namespace)


def bus_of(env: Mapping[str, str], run_name: str = "") -> dict[str, str]:
    """The bus of a run of `up` here, or the one that SHOAL_NATS_URL and friends name where no run was asked for."""
    if env.get("SHOAL_NATS_URL") and not run_name:
        return {
            name: value for name, value in env.items() if name.startswith(("SHOAL_NATS", "SHOAL_NAMESPACE"))
        }
    run = rundir.choose_run(rundir.state_root(env), run_name)
    if not run.bus:
        raise ConfigError(f"run {run.name} is only starting; try again in a moment")
    return run.bus
