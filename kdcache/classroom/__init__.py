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
    classroom_loss.py    ClassroomKD, from the four above        method "classroom"
    cross_entropy.py     labels only                             method "ce"
    kd.py                one mentor                              method "kd"
    average.py           every mentor, equal weights             method "average"
    amtml_weights.py     mentor weights learned per sample, and the target they integrate
    amtml_phases.py      in which epochs those learn
    rkd.py               how rows lie to one another: distances and angles
    hints.py             from the student's pooled features to the mentors'
    amtml.py             AMTML-KD, from the four above      method "amtml"
    build.py             a loss by its method's name

All are called alike: `loss(student_logits_BC, labels_B, mentor_logits_BMC) -> LossOutput`, with
the keyword tensors that `loss.needs` asks for.
"""

from kdcache.classroom.amtml import Amtml, AmtmlLoss
from kdcache.classroom.average import AverageLoss
from kdcache.classroom.build import METHODS, build_loss, build_method
from kdcache.classroom.classroom_loss import ClassroomLoss
from kdcache.classroom.cross_entropy import CrossEntropyLoss
from kdcache.classroom.kd import KDLoss
from kdcache.classroom.needs import Needs
from kdcache.classroom.output import ChangesByEpoch, HasOwnRates, LossOutput, MentorLoss
from kdcache.classroom.shapes import LossShapes

__all__ = [
    "LossOutput",
    "MentorLoss",
    "Needs",
    "LossShapes",
    "ChangesByEpoch",
    "HasOwnRates",
    "ClassroomLoss",
    "CrossEntropyLoss",
    "KDLoss",
    "AverageLoss",
    "Amtml",
    "AmtmlLoss",
    "METHODS",
    "build_loss",
    "build_method",
]
