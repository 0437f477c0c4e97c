"""The one `Settings` as a resource: read when a step or sensor needs it, never at import, never shown in the UI."""

from pathlib import Path

import dagster as dg

from email_platform.settings import Settings


class SettingsResource(dg.ConfigurableResource["SettingsResource"]):
    """Where the settings come from; the environment's EMAIL_PLATFORM_* come before the folder's file.

    Attributes:
        state_folder: folder of the embedded stack; None for the default or EMAIL_PLATFORM_STATE_FOLDER.
    """

    state_folder: str | None = None

    def load(self) -> Settings:
        """The validated settings.

        Raises:
            ConfigurationError: names the variable and how to mend it.
        """
        return Settings.load(state_folder=Path(self.state_folder) if self.state_folder else None)
