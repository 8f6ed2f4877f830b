"""Real clusters for tests, on loopback addresses alone: Spark's standalone one of two hosts, and Ray's."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyspark.sql import SparkSession
    from ray.cluster_utils import Cluster

ROOT = Path(__file__).parents[1]
# A transform that does something the first time that it meets the row whose c is 77; `flag` is the file by which it
# knows.
ONCE = """
import os, signal, time

def before(rows):
    if (rows["x"][:, 2] == 77).any():
        try:
            os.close(os.open({flag!r}, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            pass
        else:
            {what}
    return rows
"""
# Two hosts, since Spark gives no second attempt at a task to the host that has the first.
HOSTS = ("127.0.0.2", "127.0.0.3")
# Quick to start rather than quick to run.
JVM = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
SETTINGS = {
    "spark.driver.extraJavaOptions": JVM,
    "spark.executor.extraJavaOptions": JVM,
    "spark.driver.host": "127.0.0.1",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    "spark.executor.memory": "512m",
    "spark.driver.memory": "512m",
    "spark.sql.shuffle.partitions": "2",
    "spark.plugins": "org.apache.spark.sql.connect.SparkConnectPlugin",
    "spark.connect.grpc.binding.address": "127.0.0.1",
    "spark.speculation": "true",
    "spark.speculation.interval": "100ms",
    "spark.speculation.multiplier": "1.5",
    "spark.speculation.quantile": "0.1",
    "spark.speculation.minTaskRuntime": "3s",
    "spark.speculation.efficiency.enabled": "false",
}
RAY_NODE = {"num_cpus": 1, "object_store_memory": 100 << 20, "node_ip_address": "127.0.0.1"}


@contextmanager
def spark_session(directory: Path) -> Iterator[SparkSession]:
    """A session of a standalone cluster: a master and two workers of one core each; speculation and retries are on,
    and Connect is served."""
    import pyspark
    from pyspark.sql import SparkSession

    home = Path(pyspark.__file__).parent
    os.environ |= {"PYSPARK_PYTHON": sys.executable, "SPARK_LOCAL_IP": "127.0.0.1"}
    with ExitStack() as stack:
        launch = home / "bin" / "spark-class"
        master = _started(stack, directory, launch, "master.Master", "127.0.0.1", "--port", "0")
        address = _told(master, r"Starting Spark master at (spark://\S+)")
        for host in HOSTS:
            _started(stack, directory, launch, "worker.Worker", host, "--cores", "1", "--memory", "600m", address)
        builder = SparkSession.builder.appName("tests").master(address)
        with socket.create_server(("127.0.0.1", 0)) as free:
            connect = str(free.getsockname()[1])
        for name, value in {**SETTINGS, "spark.connect.grpc.binding.port": connect}.items():
            builder = builder.config(name, value)
        session = builder.getOrCreate()
        stack.callback(session.stop)
        yield session


def _started(stack: ExitStack, directory: Path, launch: Path, kind: str, host: str, *arguments: str) -> Path:
    """A daemon of Spark's, and the file of what it says."""
    log = directory / f"{kind}-{host}.log"
    env = os.environ | {
        "SPARK_LOCAL_IP": host,
        "SPARK_DAEMON_MEMORY": "256m",
        "SPARK_DAEMON_JAVA_OPTS": JVM,
        "SPARK_MASTER_OPTS": "-Dspark.master.rest.enabled=false",
        "SPARK_WORKER_DIR": str(directory / host),
        "PYTHONPATH": str(ROOT),
    }
    command = [launch, f"org.apache.spark.deploy.{kind}", "--host", host, "--webui-port", "0", *arguments]
    with log.open("wb") as file:
        process = subprocess.Popen(command, env=env, stdout=file, stderr=subprocess.STDOUT)
    stack.callback(process.wait)
    stack.callback(process.kill)
    return log


def _told(log: Path, pattern: str) -> str:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        if found := re.search(pattern, log.read_text(errors="replace")):
            return found[1]
        time.sleep(0.05)
    raise AssertionError(log.read_text(errors="replace"))


@contextmanager
def ray_nodes() -> Iterator[Cluster]:
    """A cluster of one node of two cores, to which this process is connected; `add_node(**RAY_NODE)` adds another."""
    # Before Ray is imported: on Windows and macOS it keeps to the loopback address, and this lets it do so here.
    os.environ |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0"}
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={**RAY_NODE, "num_cpus": 2, "include_dashboard": False})
    try:
        ray.init(cluster.address, log_to_driver=False, configure_logging=False)
        try:
            yield cluster
        finally:
            ray.shutdown()
    finally:
        cluster.shutdown()
