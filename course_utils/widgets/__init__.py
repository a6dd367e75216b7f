"""Boards: a trained model under the reader's hand, answering at once.

A board has three parts, and each can be read alone:

    the state   what the reader has chosen, in plain Python; no front end needed    PlaneState
    the view    a widget that hands state and weights to the page                   LatentPlane
    the page    JavaScript that draws, listens and decodes                          ../static

A move asks nobody: neither the kernel, which may be training, nor the network. So a board is quick, and lives
on in a saved page that has no kernel. One file a board; `shared` holds what they have in common.
"""

from course_utils.widgets.latent_plane import LatentPlane, PlaneState

__all__ = ["LatentPlane", "PlaneState"]
