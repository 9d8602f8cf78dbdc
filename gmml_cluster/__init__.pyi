from gmml_cluster.api import Run as Run
from gmml_cluster.api import find as find
from gmml_cluster.api import runs as runs
from gmml_cluster.api import submit as submit

__version__: str
__all__: list[str]
