"""Boards: a trained model under the reader's hand, answering at once.

A board has three parts, and each can be read alone:

    the state   what the reader has chosen, in plain Python; no front end needed    PlaneState
    the view    a widget that hands state and weights to the page                   LatentPlane
    the page    JavaScript that draws, listens and decodes                          ../static

A move asks nobody: neither the kernel, which may be training, nor the network. So a board is quick, and lives
on in a saved page that has no kernel. The exception is a LayerBoard whose weights are too large for the page.

One file a board; `shared` holds what they have in common, `layers` what the two boards on a hierarchy have.

    lesson 01   the latent plane    PlaneState     LatentPlane
    lesson 02   batch norm          NormState      BatchNormBoard
    lesson 03   the latent walk     WalkState      LatentWalk
    lesson 03   the feature maps    FeatureState   FeatureViewer
    lesson 04   the layer board     LayersState    LayerBoard
    lesson 05   class and style     ClassState     ClassBoard
    lesson 06   the photo board     LayersState    PhotoBoard
    lesson 06   your photograph     HoleState      OwnPhotograph
"""

from course_utils.widgets.batch_norm import BatchNormBoard, NormState
from course_utils.widgets.class_board import ClassBoard, ClassState
from course_utils.widgets.features import FeatureState, FeatureViewer
from course_utils.widgets.latent_plane import LatentPlane, PlaneState
from course_utils.widgets.latent_walk import LatentWalk, WalkState
from course_utils.widgets.layer_board import LayerBoard
from course_utils.widgets.layers import LayersState
from course_utils.widgets.own_photograph import HoleState, OwnPhotograph
from course_utils.widgets.photo_board import PhotoBoard

__all__ = [
    "BatchNormBoard",
    "ClassBoard",
    "ClassState",
    "FeatureState",
    "FeatureViewer",
    "HoleState",
    "LatentPlane",
    "LatentWalk",
    "LayerBoard",
    "LayersState",
    "NormState",
    "OwnPhotograph",
    "PhotoBoard",
    "PlaneState",
    "WalkState",
]
