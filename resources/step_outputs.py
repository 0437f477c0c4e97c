"""Where steps of one run leave each other small values (keys, ids, counts): pickles in the bucket, by dagster-aws."""

import dagster as dg
from dagster_aws.s3.io_manager import PickledObjectS3IOManager

from email_platform.adapters.assembly import open_store
from email_platform.adapters.dagster_history import STEP_OUTPUTS
from resources.settings import SettingsResource


class StepOutputs(dg.ConfigurableIOManagerFactory[PickledObjectS3IOManager]):
    """dagster-aws' pickling IO manager under ``step-outputs/`` of the staging bucket.

    Steps may run on different machines, so the default (a local folder) would not do.
    """

    settings: dg.ResourceDependency[SettingsResource]

    def create_io_manager(self, context: dg.InitResourceContext) -> PickledObjectS3IOManager:
        """Made when a step first hands something on."""
        store = open_store(self.settings.load())
        return PickledObjectS3IOManager(store.bucket, store.client, s3_prefix=STEP_OUTPUTS)
