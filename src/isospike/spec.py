"""Parts of a run's configuration: strict models, and registries of those that a ``kind`` tells apart."""

from typing import Annotated, Any, Generic, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler
from pydantic_core import CoreSchema
from pydantic_core.core_schema import tagged_union_schema

from isospike.errors import ConfigError
from isospike.registry import Registry

Share = Annotated[float, Field(ge=0, lt=1)]


class Spec(BaseModel):
    """A part of a configuration is typed strictly, has no unknown keys, and is not changed once read."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


S = TypeVar("S", bound=Spec)


class Kinds(Registry[type[S]], Generic[S]):
    """The rows that a part of a run may be, by their ``kind``.

    A row is one class: its fields are the options, and its methods do what it is for. As the annotation
    ``Annotated[Base, KINDS]`` of a field, the registry admits every row in it.
    """

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self._holders: list[type[BaseModel]] = []

    def add(self, row: type[S]) -> type[S]:
        """Register ``row`` under every name that the ``Literal`` of its ``kind`` lists, and return it.

        Raises:
            ConfigError: its ``kind`` is no ``Literal`` of names, or it lacks a method of the base.
            ValueError: one of the names is taken.
        """
        kinds = get_args(row.model_fields["kind"].annotation)
        if not kinds:
            raise ConfigError(f'{row.__name__} must say its kind, as in kind: Literal["{row.__name__.lower()}"]')
        if lacking := sorted(getattr(row, "__abstractmethods__", ())):
            raise ConfigError(f"{row.__name__} must define {', '.join(lacking)}, as every {self.what} does")
        for kind in kinds:
            self.register(kind, row)
        for holder in self._holders:
            holder.model_rebuild(force=True)
        return row

    def rows(self) -> list[type[S]]:
        """Return every row once, whatever the number of its names."""
        return list(dict.fromkeys(self[kind] for kind in self))

    def held_by(self, holder: type[BaseModel]) -> None:
        """Note that ``holder`` has a field of these rows: it is built anew for each that is added later."""
        self._holders.append(holder)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        rows = {kind: handler.generate_schema(self[kind]) for kind in sorted(self)}
        return tagged_union_schema(rows, discriminator="kind")
