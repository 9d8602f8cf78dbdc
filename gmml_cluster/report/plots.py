"""What all figures of a page have in common."""

from typing import Any

from bokeh.plotting import figure


def plot_of(name: str, **settings: Any) -> Any:
    """An empty figure; `page.js` finds it by its name and gives it the page's colours."""
    plot = figure(
        name=name,
        sizing_mode="stretch_width",
        tools="xpan,xbox_zoom,xwheel_zoom,reset,save",
        active_scroll=None,
        active_drag="xbox_zoom",
        min_border_left=70,
        background_fill_color=None,
        border_fill_color=None,
        **settings,
    )
    plot.toolbar.logo = None
    plot.toolbar.autohide = True
    return plot
