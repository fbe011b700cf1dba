"""A real Slurm of two "nodes" on this machine: slurmctld and two slurmd of Debian's `slurm-wlm`, run by root, without munge."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from conftest import free_port
from stack import wait_for

HERE = shutil.which("slurmctld", path=f"{os.environ['PATH']}:/usr/sbin") is not None and os.getuid() == 0

CONFIGURATION = """
ClusterName=two
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
AuthType=auth/none
CredType=cred/none
SlurmUser=root
SlurmdUser=root
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/linear
MpiDefault=none
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
SlurmdParameters=config_overrides
NodeName=n[0-1] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{ports[1]}-{ports[2]}] CPUs=2 RealMemory=8000
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


@contextmanager
def two_nodes(folder: Path) -> Generator[dict[str, str]]:
    """The environment in which `sbatch` and its like find the cluster. Its nodes n0 and n1 have no address but this machine's."""
    folder.mkdir(parents=True)
    for name in ("state", "spool-n0", "spool-n1"):
        (folder / name).mkdir()
    controller, first = free_port(), free_port()
    ports = (controller, first, first + 1)
    path = folder / "slurm.conf"
    path.write_text(CONFIGURATION.format(host=socket.gethostname(), ports=ports, folder=folder))
    own = {**os.environ, "SLURM_CONF": str(path), "PATH": f"{os.environ['PATH']}:/usr/sbin"}
    daemons = [["slurmctld", "-D"], *(["slurmd", "-D", "-N", name] for name in ("n0", "n1"))]
    running = [
        subprocess.Popen([*command, "-f", str(path)], env=own, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for command in daemons
    ]
    try:
        wait_for(lambda: _idle(own) == 2, 60, "the nodes")
        yield {"SLURM_CONF": str(path)}
    finally:
        subprocess.run(["scancel", "--user=root"], env=own, check=False)
        for daemon in reversed(running):
            daemon.terminate()
            daemon.wait(60)


def _idle(environment: dict[str, str]) -> int:
    told = subprocess.run(["sinfo", "-h", "-N", "-o", "%T"], env=environment, capture_output=True, text=True, check=False)
    return told.stdout.split().count("idle")
