"""One campaign's content as a campaign's run uses it.

Invariant: content with an unknown variable never gets as far as a recipient.
"""

from __future__ import annotations

import pyarrow as pa

from email_platform.content.apart import RenderingApart, RenderingLimits, has_programs
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
        self,
        content_of: Campaign | Manifest,
        unsubscribe: UnsubscribeLinks,
        limits: ContentLimits | None = None,
        apart: RenderingLimits | None = None,
    ) -> None:
        """Compile the content and check its variables.

        Args:
            content_of: whose content.
            unsubscribe: makes the signed links.
            limits: how large a message may be.
            apart: check and samples render in a process of their own with these limits; None: in this one.

        Raises:
            InvalidTemplateError: it cannot be compiled, or names an unknown variable.
        """
        self._compiled = compile_content(content_of.content, limits)
        check_content(self._compiled)
        self._content, self._unsubscribe = content_of.content, unsubscribe
        self._apart = apart if apart is not None and has_programs(self._compiled) else None
        self._laid_out: tuple[Manifest, Layout] | None = None

    def check(self, store: ObjectStore, manifest: Manifest) -> ContentCheck:
        """Which recipients of the manifest cannot be rendered; see `check_against_manifest`."""
        return check_against_manifest(store, manifest, self._compiled, apart=self._process(manifest))

    def sample(self, manifest: Manifest, rows: pa.Table) -> RenderedRows:
        """As `render`, for messages that nobody has checked; in the process of the check.

        Raises:
            InvalidTemplateError: as for `render`, or it takes more than the limits.
        """
        process = self._process(manifest)
        if process is None:
            return self.render(manifest, rows)
        campaign_id, sender_id = manifest.campaign_id, manifest.sender.sender_id
        leads = [0, *rows.column("lead_id").to_pylist()]
        with process:
            values = process.values(rows, {lead: self._unsubscribe.url(campaign_id, lead, sender_id) for lead in leads})
        return RenderedRows(Layout(self._compiled, manifest, self._unsubscribe).skeleton, values)

    def _process(self, manifest: Manifest) -> RenderingApart | None:
        if self._apart is None:
            return None
        return RenderingApart(self._content, self._compiled.limits, manifest, self._apart)

    def render(self, manifest: Manifest, rows: pa.Table) -> RenderedRows:
        """The manifest's skeleton and the values of each row, in order; see `render_rows`.

        Raises:
            InvalidTemplateError: what depends on the campaign alone cannot be computed.
        """
        if self._laid_out is None or self._laid_out[0] != manifest:
            self._laid_out = manifest, Layout(self._compiled, manifest, self._unsubscribe)
        return render_rows(self._compiled, rows, manifest, self._unsubscribe, self._laid_out[1])
