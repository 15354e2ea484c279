"""Losses that teach a student from labels and cached mentor outputs; pure tensor functions.

    output.py            LossOutput, and MentorLoss: what every loss looks like from outside
    inputs.py            which shapes, devices and dtypes a loss accepts
    switches.py          checks of a method's switches
    confidence.py        probability of the true label; the shares the weights come from
    knowledge_filter.py  which mentors are active for a sample
    mentoring.py         gap and temperature
    divergence.py        KL between mentor and student at a temperature
    classroom_loss.py    ClassroomKD, from the four above        method "classroom"
    cross_entropy.py     labels only                             method "ce"
    kd.py                one mentor                              method "kd"
    average.py           every mentor, equal weights             method "average"
    build.py             a loss by its method's name

All are called alike: `loss(student_logits_BC, labels_B, mentor_logits_BMC) -> LossOutput`.
"""

from kdcache.classroom.average import AverageLoss
from kdcache.classroom.build import METHODS, build_loss
from kdcache.classroom.classroom_loss import ClassroomLoss
from kdcache.classroom.cross_entropy import CrossEntropyLoss
from kdcache.classroom.kd import KDLoss
from kdcache.classroom.output import LossOutput, MentorLoss

__all__ = [
    "LossOutput",
    "MentorLoss",
    "ClassroomLoss",
    "CrossEntropyLoss",
    "KDLoss",
    "AverageLoss",
    "METHODS",
    "build_loss",
]
