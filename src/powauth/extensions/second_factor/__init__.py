"""`SecondFactor`: asks for a second factor before every session. `Factor` is the interface of factors."""

from powauth.extensions.second_factor.extension import SecondFactor
from powauth.extensions.second_factor.factor import MFA, Challenge, EnrolledFactor, Enrolment, Factor, FactorEngine
from powauth.extensions.second_factor.recovery import RecoveryCodes
from powauth.extensions.second_factor.stores import RecoveryCodeStore, TotpRecord, TotpStore
from powauth.extensions.second_factor.tables import RecoveryCodeMixin, TotpMixin
from powauth.extensions.second_factor.totp import Totp

__all__ = [
    "MFA",
    "Challenge",
    "EnrolledFactor",
    "Enrolment",
    "Factor",
    "FactorEngine",
    "RecoveryCodeMixin",
    "RecoveryCodeStore",
    "RecoveryCodes",
    "SecondFactor",
    "Totp",
    "TotpMixin",
    "TotpRecord",
    "TotpStore",
]
