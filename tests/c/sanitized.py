"""A pytest plugin: load the extension from the directory in ``CENTIPEDE_TEST_NATIVE`` in place of the built one."""

import os

import centipede.engine

centipede.engine.__path__.insert(0, os.environ["CENTIPEDE_TEST_NATIVE"])
