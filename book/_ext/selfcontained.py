"""Built pages that load nothing from other hosts and that assistive technology can read."""

from __future__ import annotations

from sphinx.application import Sphinx


def name_list_items(app: Sphinx, page: str, template: str, context: dict, doctree: object) -> None:
    """Entries of a bibliography sit in ``role="list"``, whose children must be list items."""
    if "body" in context:
        context["body"] = context["body"].replace('role="doc-biblioentry"', 'role="listitem"')


def without_thebe(app: Sphinx) -> None:
    """Take back the handlers by which sphinx_thebe (part of Jupyter Book) writes a package host into every page."""
    for listeners in app.events.listeners.values():
        for listener in list(listeners):
            if listener.handler.__module__ == "sphinx_thebe":
                app.disconnect(listener.id)
    app.registry.css_files[:] = [css for css in app.registry.css_files if css[0] != "sphinx-thebe.css"]


def setup(app: Sphinx) -> dict:
    """Register with sphinx; this extension comes after those of Jupyter Book."""
    without_thebe(app)
    app.connect("html-page-context", name_list_items)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
