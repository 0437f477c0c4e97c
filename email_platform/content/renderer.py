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
from email_platform.errors import InvalidTemplateError, RenderingEndedError


class TemplateRenderer:
    """`email_platform.runs.parts.Renderer` for one campaign's content."""

    def __init__(
        self,
        content_of: Campaign | Manifest,
        unsubscribe: UnsubscribeLinks,
        limits: ContentLimits | None = None,
        apart: RenderingLimits | None = None,
        sending_apart: RenderingLimits | None = None,
    ) -> None:
        """Compile the content and check its variables.

        Args:
            content_of: whose content.
            unsubscribe: makes the signed links.
            limits: how large a message may be.
            apart: check and samples render in a process of their own with these limits; None: in this one.
            sending_apart: so does `render`, in one that it keeps until `close`; None: in this one.

        Raises:
            InvalidTemplateError: it cannot be compiled, or names an unknown variable.
        """
        self._compiled = compile_content(content_of.content, limits)
        check_content(self._compiled)
        self._content, self._unsubscribe = content_of.content, unsubscribe
        is_harmless = not has_programs(self._compiled)
        self._apart = None if is_harmless else apart
        self._sending_apart = None if is_harmless else sending_apart
        self._kept: tuple[Manifest, RenderingApart] | None = None
        self._given_up: InvalidTemplateError | None = None
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
            return self._render_here(manifest, rows)
        with process:
            values = process.values(rows, self._urls(manifest, rows))
        return RenderedRows(self._layout(manifest).skeleton, values)

    def _process(self, manifest: Manifest) -> RenderingApart | None:
        if self._apart is None:
            return None
        return RenderingApart(self._content, self._compiled.limits, manifest, self._apart)

    def begin(self, manifest: Manifest) -> None:
        """Do what takes long before the first `render`: where there is to be a process, start it.

        Raises:
            InvalidTemplateError: what depends on the campaign alone cannot be computed, or takes more than the limits.
            PartUnavailableError: the process does not start.
        """
        if self._sending_apart is not None:
            self._kept_process(manifest, self._sending_apart)
        self._layout(manifest)

    def render(self, manifest: Manifest, rows: pa.Table) -> RenderedRows:
        """The manifest's skeleton and the values of each row, in order; see `render_rows`.

        A process that ended is tried once more with a new one: the machine may have ended it for the memory of others.

        Raises:
            InvalidTemplateError: what depends on the campaign alone cannot be computed, or these rows take more than
                the limits.
        """
        if self._sending_apart is None:
            return self._render_here(manifest, rows)
        if self._given_up is not None:  # nobody waits for the limit of time again
            raise self._given_up
        urls = self._urls(manifest, rows)
        try:
            try:
                values = self._kept_process(manifest, self._sending_apart).values(rows, urls)
            except RenderingEndedError:
                self.close()
                values = self._kept_process(manifest, self._sending_apart).values(rows, urls)
        except InvalidTemplateError as error:
            self.close()  # it may be at work still
            self._given_up = error
            raise
        return RenderedRows(self._layout(manifest).skeleton, values)

    def close(self) -> None:
        """End the process that `render` keeps; the next `render` starts another one."""
        if self._kept is not None:
            self._kept[1].__exit__()
            self._kept = None

    def _kept_process(self, manifest: Manifest, limits: RenderingLimits) -> RenderingApart:
        if self._kept is not None and self._kept[0] != manifest:
            self.close()
        if self._kept is None:
            process = RenderingApart(self._content, self._compiled.limits, manifest, limits)
            self._kept = manifest, process.__enter__()
        return self._kept[1]

    def _render_here(self, manifest: Manifest, rows: pa.Table) -> RenderedRows:
        return render_rows(self._compiled, rows, manifest, self._unsubscribe, self._layout(manifest))

    def _layout(self, manifest: Manifest) -> Layout:
        if self._laid_out is None or self._laid_out[0] != manifest:
            self._laid_out = manifest, Layout(self._compiled, manifest, self._unsubscribe)
        return self._laid_out[1]

    def _urls(self, manifest: Manifest, rows: pa.Table) -> dict[int, str]:
        leads = [0, *rows.column("lead_id").to_pylist()]
        campaign_id, sender_id = manifest.campaign_id, manifest.sender.sender_id
        return {lead: self._unsubscribe.url(campaign_id, lead, sender_id) for lead in leads}
