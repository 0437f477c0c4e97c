"""dbt as a resource: dagster-dbt's own, with the warehouse's address and password given to dbt's process alone.

dagster-dbt hands its process's whole environment to dbt and has no setting for more. Variables that a step put there
stayed for every later step of the same process; so dbt is started by `email_platform.adapters.dbt`, which adds them.
"""

import sys
from functools import cached_property
from importlib.metadata import version

from dagster_dbt import DbtCliResource, DbtProject
from packaging.version import Version


class DbtOnWarehouse(DbtCliResource):
    """`DbtCliResource` whose dbt works on the warehouse of the settings."""

    @classmethod
    def of(cls, project: DbtProject) -> "DbtOnWarehouse":
        """The resource for this project, with the interpreter's own dbt."""
        return cls(
            project_dir=str(project.project_dir),
            dbt_executable=sys.executable,
            global_config_flags=["-m", "email_platform.adapters.dbt"],
        )

    # dagster-dbt asks `<dbt_executable> --version`, which is Python's here; a test runs dbt through this resource.
    @cached_property
    def _cli_version(self) -> Version:
        return Version(version("dbt-core"))
