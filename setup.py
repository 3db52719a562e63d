"""Builds the C engine where it can be built; without it the package is whole and uses the reference engine."""

from __future__ import annotations

from pathlib import Path
from shutil import copyfile
from tempfile import TemporaryDirectory

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import BaseError, CCompilerError

REASON_FILE = "_native.reason"
"""Beside the extension's place: why it is not there. Read by centipede/engine/native.py."""

PROBES = (
    ("int main(void) { return 0; }", "there was no working C compiler"),
    ("#include <Python.h>\nint main(void) { return 0; }", "the headers of Python were missing (python3-dev)"),
    ("#include <openssl/evp.h>\nint main(void) { return 0; }", "the headers of libcrypto were missing (libssl-dev)"),
)


class OptionalBuild(build_ext):
    """Builds the extension or, if that fails, leaves the reason in its place."""

    def build_extension(self, ext: Extension) -> None:
        """Build one extension."""
        reason_file = self._reason_file(ext)
        reason_file.unlink(missing_ok=True)
        try:
            super().build_extension(ext)
        except (BaseError, CCompilerError, OSError) as error:
            reason = self._reason(str(error))
            self.warn(f"the C engine was not built: {reason}")
            reason_file.parent.mkdir(parents=True, exist_ok=True)
            reason_file.write_text(reason + "\n")

    def copy_extensions_to_source(self) -> None:
        """For an editable install: what was built, or the reason, goes into the source tree."""
        super().copy_extensions_to_source()
        for ext in self.extensions:
            built = self._reason_file(ext)
            in_place = Path(self.get_ext_fullpath(ext.name)).with_name(REASON_FILE)
            in_place.unlink(missing_ok=True)
            if built.exists():
                copyfile(built, in_place)

    def _reason_file(self, ext: Extension) -> Path:
        return Path(self.build_lib, *ext.name.split(".")).with_name(REASON_FILE)

    def _reason(self, otherwise: str) -> str:
        """The first thing that is missing, in words."""
        with TemporaryDirectory() as directory:
            probe = Path(directory) / "probe.c"
            for text, missing in PROBES:
                probe.write_text(text + "\n")
                try:
                    self.compiler.compile([str(probe)], output_dir=directory)
                except (BaseError, CCompilerError, OSError):
                    return missing
        return otherwise


setup(cffi_modules=["centipede/engine/build.py:ffibuilder"], cmdclass={"build_ext": OptionalBuild})
