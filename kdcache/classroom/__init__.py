"""Losses that teach a student from labels and cached mentor outputs; pure tensor functions.

    output.py            LossOutput, and MentorLoss: what every loss looks like from outside
    needs.py             Needs: how many mentors and which targets a loss must be given
    shapes.py            LossShapes: the sizes of a loss that learns
    terms.py             a loss as a sum of terms, each at logits of its own
    inputs.py            which shapes, devices and dtypes a loss accepts
    switches.py          checks of a method's switches
    confidence.py        probability of the true label; the shares the weights come from
    knowledge_filter.py  which mentors are active for a sample
    mentoring.py         gap and temperature
    divergence.py        KL between mentor and student at a temperature
    rank_weighting.py    weights by position among the confidences
    standardise.py       rows of mean 0 and deviation 1
    classroom_loss.py    ClassroomKD, from the six above         method "classroom"
    cross_entropy.py     labels only                             method "ce"
    kd.py                one mentor                              method "kd"
    weighted.py          mentors at one temperature, by given weights
    average.py           every mentor, equal weights             method "average"
    soft.py              weights by confidence, no gate          method "soft"
    ca_mkd.py            weights by the mentors' losses          method "ca-mkd"
    ebkd.py              weights by the mentors' entropies       method "ebkd"
    dkd.py               true class and others apart             method "dkd"
    dist.py              correlations of rows and columns        method "dist"
    logit_mse.py         regression of raw logits                method "logit-mse"
    amtml_weights.py     mentor weights learned per sample, and the target they integrate
    amtml_phases.py      in which epochs those learn
    rkd.py               how rows lie to one another: distances and angles
    hints.py             from the student's pooled features to the mentors'
    amtml.py             AMTML-KD, from the four above      method "amtml"
    kd_scale.py          a row's mentor terms scaled together
    heatmap_inputs.py    which heatmaps and joints a loss accepts
    heatmap_confidence.py  how sure a heatmap is of its joint
    heatmap_rows.py      joints as what is decided about
    heatmap_terms.py     squared error and spatial KL, and how joints add up
    heatmap_loss.py      ClassroomKD on heatmaps        pose, method "classroom"
    heatmap_ce.py        labels only                    pose, method "ce"
    heatmap_average.py   every mentor, equal weights    pose, method "average"
    heatmap_kd.py        one mentor                     pose, method "kd"
    build.py             a loss by its method's name

All are called alike: `loss(student_logits_BC, labels_B, mentor_logits_BMC) -> LossOutput`, with
the keyword tensors that `loss.needs` asks for. Those for pose take heatmaps in the same places:
`loss(student_heatmaps_BJHW, joints_BJ3, mentor_heatmaps_BMJHW)`.
"""

from kdcache.classroom.amtml import Amtml, AmtmlLoss
from kdcache.classroom.average import AverageLoss
from kdcache.classroom.build import (
    METHODS,
    POSE_METHODS,
    build_loss,
    build_method,
    has_filter,
    methods_of,
)
from kdcache.classroom.ca_mkd import CAMKDLoss
from kdcache.classroom.classroom_loss import ClassroomLoss
from kdcache.classroom.cross_entropy import CrossEntropyLoss
from kdcache.classroom.dist import DISTLoss
from kdcache.classroom.dkd import DKDLoss
from kdcache.classroom.ebkd import EBKDLoss
from kdcache.classroom.heatmap_average import HeatmapAverageLoss
from kdcache.classroom.heatmap_ce import HeatmapLabelLoss
from kdcache.classroom.heatmap_kd import HeatmapKDLoss
from kdcache.classroom.heatmap_loss import HeatmapClassroomLoss
from kdcache.classroom.kd import KDLoss
from kdcache.classroom.logit_mse import LogitMSELoss
from kdcache.classroom.needs import Needs
from kdcache.classroom.output import (
    ChangesByEpoch,
    HasOwnRates,
    JointDecisions,
    LossOutput,
    MentorLoss,
)
from kdcache.classroom.shapes import LossShapes
from kdcache.classroom.soft import SoftLoss

__all__ = [
    "LossOutput",
    "JointDecisions",
    "MentorLoss",
    "Needs",
    "LossShapes",
    "ChangesByEpoch",
    "HasOwnRates",
    "ClassroomLoss",
    "CrossEntropyLoss",
    "KDLoss",
    "AverageLoss",
    "SoftLoss",
    "CAMKDLoss",
    "EBKDLoss",
    "DKDLoss",
    "DISTLoss",
    "LogitMSELoss",
    "Amtml",
    "AmtmlLoss",
    "HeatmapClassroomLoss",
    "HeatmapLabelLoss",
    "HeatmapAverageLoss",
    "HeatmapKDLoss",
    "METHODS",
    "POSE_METHODS",
    "build_loss",
    "build_method",
    "has_filter",
    "methods_of",
]
