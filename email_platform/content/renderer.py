"""One campaign's content as a campaign's run uses it.

Invariant: content with an unknown variable never gets as far as a recipient.
"""

from __future__ import annotations

import pyarrow as pa

from email_platform.content.check import ContentCheck, check_against_manifest
from email_platform.content.compile import ContentLimits, check_content, compile_content
from email_platform.content.layout import Layout, UnsubscribeLinks
from email_platform.content.render import RenderedRows, render_rows
from email_platform.domain.campaigns import Campaign
from email_platform.domain.manifest import Manifest
from email_platform.domain.ports import ObjectStore


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
        self._laid_out: tuple[Manifest, Layout] | None = None

    def check(self, store: ObjectStore, manifest: Manifest) -> ContentCheck:
        """Which recipients of the manifest cannot be rendered; see `check_against_manifest`."""
        return check_against_manifest(store, manifest, self._compiled)

    def render(self, manifest: Manifest, rows: pa.Table) -> RenderedRows:
        """The manifest's skeleton and the values of each row, in order; see `render_rows`.

        Raises:
            InvalidTemplateError: what depends on the campaign alone cannot be computed.
        """
        if self._laid_out is None or self._laid_out[0] != manifest:
            self._laid_out = manifest, Layout(self._compiled, manifest, self._unsubscribe)
        return render_rows(self._compiled, rows, manifest, self._unsubscribe, self._laid_out[1])
