"""One campaign's content as a campaign's run uses it.

Invariant: content with an unknown variable never gets as far as a recipient.
"""

from __future__ import annotations

import pyarrow as pa

from email_platform.content.check import check_against_manifest
from email_platform.content.compile import ContentLimits, check_content, compile_content
from email_platform.content.render import UnsubscribeLinks, render_recipients
from email_platform.domain.campaigns import Campaign
from email_platform.domain.manifest import Manifest
from email_platform.domain.ports import ObjectStore, Recipient


class TemplateRenderer:
    """`email_platform.runs.parts.Renderer` for one campaign's content."""

    def __init__(
        self, content_of: Campaign | Manifest, unsubscribe: UnsubscribeLinks, limits: ContentLimits | None = None
    ) -> None:
        """Compile the content and check its variables.

        Raises:
            InvalidTemplateError: it cannot be compiled, or names an unknown variable.
        """
        self._compiled = compile_content(content_of.content, limits)
        check_content(self._compiled)
        self._unsubscribe = unsubscribe

    def check(self, store: ObjectStore, manifest: Manifest) -> None:
        """Return where every recipient of the manifest can be rendered; see `check_against_manifest`."""
        check_against_manifest(store, manifest, self._compiled)

    def render(self, manifest: Manifest, rows: pa.Table) -> tuple[Recipient, ...]:
        """One message per row, in order; see `render_recipients`."""
        return render_recipients(self._compiled, rows, manifest, self._unsubscribe)
