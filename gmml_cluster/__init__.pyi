from gmml_cluster.api import Run as Run
from gmml_cluster.api import find as find
from gmml_cluster.api import runs as runs
from gmml_cluster.api import submit as submit
from gmml_cluster.models.encoders import AnyEncoder

__version__: str
__all__: list[str]

def load_encoder(run: Run | str, step: int | None = None, image_size: int | None = None) -> AnyEncoder: ...
