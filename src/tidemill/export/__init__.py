"""Files for the platforms that run servers: Kubernetes and KServe, container images, systemd.

Each is a function from a `Site` to texts by file name; `write` puts them into a directory.
"""

from tidemill.export.container import container
from tidemill.export.files import write
from tidemill.export.kubernetes import Cluster, kubernetes
from tidemill.export.site import Site, read_site
from tidemill.export.systemd import Host, systemd

__all__ = ["Cluster", "Host", "Site", "container", "kubernetes", "read_site", "systemd", "write"]
