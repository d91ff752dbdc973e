"""An observatory that says on stdout which tries it has taken, until it is killed. Arguments: its file, a plugin."""

import asyncio
import sys
import time
from pathlib import Path

from warpfleet.actors.observatory_host import ObservatoryHost
from warpfleet.core.experience import Between, Evidence


async def learn() -> None:
    host = ObservatoryHost(Path(sys.argv[1]))
    for number in range(1_000_000):
        subject = Between("r", sys.argv[2], 4, str(number), "peer")
        await host.learn([Evidence(subject, True, time.time())])
        print(number, flush=True)


asyncio.run(learn())
