"""Base class of the sections of a profile, and the bounded numbers of their fields."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Auto = Literal["auto"]
PositiveInt = Annotated[int, Field(gt=0, le=10**15)]
Count = Annotated[int, Field(ge=0, le=10**15)]
PositiveFloat = Annotated[float, Field(ge=1e-30, le=1e9)]
"""Bounded, so that no product or 32-bit copy of a setting is infinite or 0."""
Amount = Annotated[float, Field(ge=0, le=1e9)]
Finite = Annotated[float, Field(ge=-1e9, le=1e9)]
Divisor = Annotated[float, Field(ge=1e-3, le=1e3)]
"""A number by which logits are divided."""


class Section(BaseModel):
    """Base class of every section: frozen, rejects unknown keys, describes fields by their docstrings."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        protected_namespaces=(),
        allow_inf_nan=False,
    )
