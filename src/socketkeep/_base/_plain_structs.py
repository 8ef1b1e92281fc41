"""The twins of msgspec's structs that are sent as arrays, for processes that do not load it.

They are tuples whose fields have names.  Nothing is checked but how many fields there are: their
reader believes who has sent them.
"""

from __future__ import annotations

from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeVar, get_args

_S = TypeVar("_S", bound="Struct")


class Config(NamedTuple):
    """The options of a struct."""

    tag: str | None


class _StructMeta(type):
    """Makes a property of each field that a class is annotated with."""

    if TYPE_CHECKING:  # annotations here would be those of classes that have none
        __struct_fields__: tuple[str, ...]
        __struct_defaults__: tuple[Any, ...]
        __struct_config__: Config

    def __new__(
        cls,
        name: str,
        bases: tuple[type, ...],
        namespace: dict[str, Any],
        *,
        tag: str | None = None,
        **_options: bool,
    ) -> _StructMeta:
        made = super().__new__(cls, name, bases, {**namespace, "__slots__": ()})
        fields = tuple(made.__annotations__)
        made.__struct_fields__ = fields
        made.__struct_defaults__ = tuple(namespace[each] for each in fields if each in namespace)
        made.__struct_config__ = Config(tag)
        for place, field in enumerate(fields):
            setattr(made, field, property(itemgetter(place)))
        return made

    def __init__(cls, name: str, bases: tuple[type, ...], namespace: Any, **_options: Any) -> None:
        super().__init__(name, bases, namespace)


class Struct(tuple[Any, ...], metaclass=_StructMeta):
    """A struct whose fields are the annotations of its class, in their order."""

    __slots__ = ()

    def __new__(cls, *values: Any, **named: Any) -> Self:
        """Make it.  Raises TypeError where its fields are others."""
        fields, defaults = cls.__struct_fields__, cls.__struct_defaults__
        if len(values) < len(fields):
            found = list(values)
            for place in range(len(values), len(fields)):
                number = place - len(fields) + len(defaults)
                if fields[place] in named:
                    found.append(named.pop(fields[place]))
                elif number >= 0:
                    found.append(_copied(defaults[number]))
                else:
                    raise TypeError(f"{cls.__name__} needs {fields[place]}")
            values = tuple(found)
        if named or len(values) > len(fields):
            raise TypeError(f"{cls.__name__} has not all of these fields: {values}, {named}")
        return tuple.__new__(cls, values)

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and tuple.__eq__(self, other)

    def __hash__(self) -> int:
        return tuple.__hash__(self)

    def __repr__(self) -> str:
        fields = zip(type(self).__struct_fields__, self, strict=True)
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in fields)})"


class ArrayPlan:
    """The plan by which a struct is read from an array.

    beside: the numbers of fields that are not in the array.
    """

    def __init__(self, kind: Any, beside: slice = slice(0, 0)) -> None:
        self.kind = kind
        types = list(kind.__annotations__.values())
        del types[beside]
        self._count = len(types)
        self._nested = [
            (place, ArrayPlan(nested))
            for place, each in enumerate(types)
            if (nested := _nested(each))
        ]
        missing: list[Any] = [...] * len(kind.__struct_fields__)
        defaults = kind.__struct_defaults__
        missing[len(missing) - len(defaults) :] = defaults
        del missing[beside]
        self._missing = missing

    def values(self, array: Any) -> list[Any]:
        """Return a value for each of the fields, of those in the array and the defaults.

        Raises ValueError where it is no array, has too few, or one within it does.
        """
        values = _list(array)
        missing = self._missing[len(values) :]
        if ... in missing:
            raise ValueError(f"Expected `array` of more than {len(values)} values")
        values = [*values[: self._count], *map(_copied, missing)]
        for place, plan in self._nested:
            values[place] = [plan.kind(*plan.values(each)) for each in _list(values[place])]
        return values


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError("Expected `array`")
    return value


def _copied(default: Any) -> Any:
    return default.copy() if isinstance(default, list | dict) else default


def _nested(annotation: Any) -> Any:
    """Return the struct that a field of that type is a list of, if it is one."""
    (kind,) = get_args(annotation)[:1] or (None,)
    return kind if isinstance(kind, _StructMeta) else None


def astuple(struct: Struct) -> tuple[Any, ...]:
    """Return the values of the fields."""
    return tuple(struct)


def replace(struct: _S, /, **changes: Any) -> _S:
    """Return a struct like this one but for these fields."""
    return type(struct)(**dict(zip(type(struct).__struct_fields__, struct, strict=True)) | changes)
