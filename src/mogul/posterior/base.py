"""What every posterior answers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution

from mogul._checks import check_count, check_level, check_seed
from mogul.covariances import Covariance
from mogul.data.rows import Rows
from mogul.data.sources import Source
from mogul.errors import InputError, UnknownNameError
from mogul.mixture import Mixture
from mogul.posterior.quantities import PARAMETERS, Quantity, quantity
from mogul.predictive import PredictiveMixture

__all__ = ["CORRECTIONS", "Posterior", "needed_components"]

CORRECTIONS = ("none", "linear_response")
_ROUNDING = 1e-12


class Posterior(Mapping[str, Distribution]):
    """What is known of the parameters of a mixture once rows have been seen.

    A mapping from "weights", "means" and "precisions" to ``torch.distributions`` objects. Other
    methods also know "log_weights", "covariances", "standard_deviations" and, where precisions are
    numbers, "log_precisions". Shapes are scikit-learn's for the covariance structure. What has no
    moment, as the covariance of a component that no row is of may have none, has an infinite mean
    or standard deviation.

    It keeps the rows that were fitted, for linear response and diagnostics: in memory and in
    pickles, not in the files of :func:`mogul.save`.

    Examples
    --------
    >>> from mogul import BayesianGaussianMixture, datasets
    >>> model = BayesianGaussianMixture(2, random_state=0).fit(datasets.old_faithful().values)
    >>> posterior = model.posterior_
    >>> list(posterior)
    ['weights', 'means', 'precisions']
    >>> posterior.interval("weights", correction="linear_response").shape
    torch.Size([2, 2])
    >>> posterior.covariance(["means", "weights"], correction="linear_response").shape
    torch.Size([6, 6])
    >>> posterior.entries(["means", "weights"])[:3]
    ['means[0, 0]', 'means[0, 1]', 'means[1, 0]']
    >>> posterior.sample(3)
    Mixture(n_components=2, n_features=2, covariance_type='full', batch_shape=(3,))
    """

    feature_names: tuple[str, ...] | None
    rows: Rows | Source | None

    # --- as a mapping ---------------------------------------------------------------------------

    def __iter__(self) -> Iterator[str]:
        return iter(PARAMETERS)

    def __len__(self) -> int:
        return len(PARAMETERS)

    def __getitem__(self, name: str) -> Distribution:
        if name not in PARAMETERS:
            raise UnknownNameError(
                f"The posterior is a mapping of {', '.join(map(repr, PARAMETERS))}; got {name!r}. "
                "Other quantities are asked for by std, interval, covariance and draw."
            )
        return self._distribution(name)

    @abstractmethod
    def _distribution(self, name: str) -> Distribution: ...

    @property
    @abstractmethod
    def kind(self) -> type[Covariance]:
        """The covariance structure."""

    @property
    @abstractmethod
    def n_components(self) -> int:
        """K."""

    @property
    @abstractmethod
    def n_features(self) -> int:
        """D."""

    @property
    def n_kept(self) -> int | None:
        """How many draws there are to take from; None where new ones are made."""
        return None

    def with_rows(self, X: Any, sample_weight: Any = None) -> Self:
        """The same posterior with the rows that it was fitted to, after loading it.

        Parameters
        ----------
        X : array-like or data frame, shape (N, D), or Source
            A source is read again wherever rows are needed; only variational posteriors take it.
        sample_weight : array-like, shape (N,), optional

        Raises
        ------
        InputError
            When they are not numbers, of another width, or not those that were fitted as far as can
            be told.
        """
        if isinstance(X, Source):
            return self._with_source(X, sample_weight)
        values = _numbers(X, "The rows")
        if values.ndim != 2 or values.shape[1] != self.n_features or not len(values):
            raise InputError(
                f"The rows have shape {tuple(values.shape)}; expected (N, {self.n_features})."
            )
        weight = None if sample_weight is None else _numbers(sample_weight, "sample_weight")
        if weight is not None and weight.shape != values.shape[:1]:
            raise InputError(
                f"sample_weight has shape {tuple(weight.shape)}; expected ({len(values)},)."
            )
        return self._with_rows(Rows(values, weight))

    def _with_source(self, source: Source, sample_weight: Any) -> Self:
        raise InputError(
            f"A {type(self).__name__} needs the rows in memory; give an array or a data frame."
        )

    @abstractmethod
    def _with_rows(self, rows: Rows) -> Self: ...

    # --- moments --------------------------------------------------------------------------------

    @abstractmethod
    def mean(self) -> Mixture:
        """The mixture of the expected weights, means and precisions."""

    def expectation(self, name: str) -> Tensor:
        """The posterior mean of a quantity, in the quantity's shape."""
        return self._expectation(self._quantity(name))

    @abstractmethod
    def _expectation(self, wanted: Quantity) -> Tensor: ...

    def std(self, name: str, correction: str = "none") -> Tensor:
        """The posterior standard deviation of each entry of a quantity.

        Parameters
        ----------
        name : str
        correction : {"none", "linear_response"}, default "none"
            Mean-field posteriors are too narrow where components overlap; "linear_response" adds
            what is missing (Giordano, Broderick and Jordan 2018).

        Raises
        ------
        UnknownNameError
            When there is no such quantity or correction.
        NotConvergedError
            When linear response is asked of a fit that is not at its optimum.
        InputError
            When linear response is asked of draws, or of a posterior without its rows.

        Warns
        -----
        MeanFieldWarning
            When components overlap and no correction is asked for.
        """
        self._before([name], correction)
        return self._variance(self._quantity(name), correction).sqrt()

    @abstractmethod
    def _variance(self, wanted: Quantity, correction: str) -> Tensor: ...

    def interval(self, name: str, level: float = 0.95, correction: str = "none") -> Tensor:
        """Equal-tailed credible intervals of each entry of a quantity, (*shape, 2).

        Of the marginal distribution that the approximation has (Student t or normal, Gamma, Beta,
        inverse Gamma; normal for entries off the diagonal of a matrix), with the variance of the
        correction where one is asked for.

        Parameters
        ----------
        name : str
        level : float, default 0.95
            The probability that an interval holds.
        correction : {"none", "linear_response"}, default "none"
            As for :meth:`std`, which also tells what is raised and warned of.
        """
        tail = (1 - check_level(level)) / 2
        self._before([name], correction)
        tails = torch.tensor([tail, 1 - tail], dtype=torch.float64)
        return self._quantiles(name, tails, correction)

    def quantiles(
        self, name: str, probabilities: float | Sequence[float], correction: str = "none"
    ) -> Tensor:
        """Quantiles of each entry of a quantity, (*shape, P); see :meth:`interval`.

        Parameters
        ----------
        name : str
        probabilities : float or sequence of P floats
            Strictly between 0 and 1.
        correction : {"none", "linear_response"}, default "none"
        """
        many = np.atleast_1d(np.asarray(probabilities, dtype=object))
        if many.ndim != 1:
            raise InputError(f"Probabilities are a number or a list; got shape {many.shape}.")
        p = torch.tensor([check_level(one, "A probability") for one in many], dtype=torch.float64)
        self._before([name], correction)
        return self._quantiles(name, p, correction)

    @abstractmethod
    def _quantiles(self, name: str, probabilities: Tensor, correction: str) -> Tensor: ...

    def covariance(self, names: str | Sequence[str], correction: str = "none") -> Tensor:
        """The covariance of the entries of one or several quantities, (Q, Q).

        In the order of :meth:`entries`; of a symmetric matrix only one half is listed.

        Parameters
        ----------
        names : str or sequence of str
        correction : {"none", "linear_response"}, default "none"
            As for :meth:`std`.
        """
        chosen = self._names(names)
        self._before(chosen, correction)
        return self._covariance([self._quantity(name) for name in chosen], correction)

    @abstractmethod
    def _covariance(self, found: list[Quantity], correction: str) -> Tensor: ...

    def entries(self, names: str | Sequence[str]) -> list[str]:
        """What each row of :meth:`covariance` is, such as ``means[0, 1]``."""
        found = [self._quantity(name) for name in self._names(names)]
        return [
            f"{one.name}[{', '.join(map(str, index))}]"
            for one in found
            for index in one.entries(self._expectation(one).shape, self.kind)
        ]

    # --- draws ----------------------------------------------------------------------------------

    def sample(
        self, n: int | None = None, *, generator: torch.Generator | None = None, seed: int = 0
    ) -> Mixture:
        """Mixtures drawn from the posterior, batch shape (n,).

        Parameters
        ----------
        n : int, optional
            By default 1000, or all there are of a sampled posterior.
        generator : torch.Generator, optional
            In the place of ``seed``.
        seed : int, default 0

        Raises
        ------
        InputError
            When more draws are asked for than a sampler kept.
        """
        wanted = None if n is None else check_count(n, "The number of draws")
        return self._sample(wanted, generator, check_seed(seed))

    @abstractmethod
    def _sample(self, n: int | None, generator: torch.Generator | None, seed: int) -> Mixture: ...

    def draw(self, name: str, n: int | None = None, *, seed: int = 0) -> Tensor:
        """Draws of a quantity, (n, *shape); ``n`` and ``seed`` as for :meth:`sample`."""
        return self._quantity(name).of(self.sample(n, seed=seed))

    def log_prob(self, mixture: Mixture) -> Tensor:
        """The log-density of a mixture's parameters under this posterior, in nats; (*batch).

        Of weights (the first K − 1), means and precisions. A sampled posterior has none.
        """
        if not isinstance(mixture, Mixture):
            raise InputError(f"Expected a Mixture; got {type(mixture).__name__}.")
        mine = (self.kind.name, self.n_components, self.n_features)
        theirs = (mixture.covariance_type, mixture.n_components, mixture.n_features)
        if mine != theirs:
            raise InputError(
                f"The posterior is of a {mine[0]} mixture of {mine[1]} components and {mine[2]} "
                f"features; this mixture is {theirs[0]}, {theirs[1]} and {theirs[2]}."
            )
        return self._log_prob(mixture)

    @abstractmethod
    def _log_prob(self, mixture: Mixture) -> Tensor: ...

    @abstractmethod
    def predictive(self) -> PredictiveMixture:
        """The density of a new row, averaged over the posterior."""

    @abstractmethod
    def relabel(self, method: str = "pivot") -> Posterior:
        """The same draws with their components in one order; see ``SampledPosterior.relabel``."""

    @abstractmethod
    def to_arviz(self, n: int | None = None, *, seed: int = 0) -> Any:
        """As an ArviZ ``DataTree``; needs the extra ``bayes`` and the rows that were fitted.

        Groups posterior, sample_stats, log_likelihood and observed_data.

        Parameters
        ----------
        n : int, optional
            Draws of each chain: by default 1000, or all there are of a sampled posterior.
        seed : int, default 0
            Of draws that are made now.
        """

    @abstractmethod
    def to_state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """A header (JSON types) and named tensors, without the rows; for files."""

    # --- help for the two kinds -----------------------------------------------------------------

    def _before(self, names: Sequence[str], correction: str) -> None:
        """Refuse a quantity or a correction that there is not; called by what the user calls."""
        for name in names:
            self._quantity(name)
        if correction not in CORRECTIONS:
            raise UnknownNameError(
                f"The correction {correction!r} is unknown; choose one of "
                f"{', '.join(map(repr, CORRECTIONS))}."
            )

    def _quantity(self, name: Any) -> Quantity:
        return quantity(name, self.kind)

    @staticmethod
    def _names(names: str | Sequence[str]) -> list[str]:
        found = [names] if isinstance(names, str) else list(names or ())
        if not found or any(not isinstance(one, str) for one in found):
            raise InputError(f"Name at least one quantity, by its name; got {names!r}.")
        if len(set(found)) != len(found):
            raise InputError(f"Name each quantity but once; got {found}.")
        return found

    def _training_batches(self, wanted: str) -> Rows | Source:
        """The rows that were fitted, to go through in batches."""
        if self.rows is None:
            raise InputError(
                f"{wanted} needs the rows that were fitted, and this posterior does not have them; "
                "give them by posterior.with_rows(X)."
            )
        return self.rows

    def _training_rows(self, wanted: str) -> Rows:
        rows = self._training_batches(wanted)
        if not isinstance(rows, Rows):
            raise InputError(
                f"{wanted} needs the rows in memory, and they were fitted from a source; give them "
                "by posterior.with_rows(X)."
            )
        return rows


def needed_components(weights: Tensor | np.ndarray, share: float) -> np.ndarray:
    """The fewest components that hold a share of the weight, heaviest first; their numbers."""
    array = weights.detach().cpu().numpy() if isinstance(weights, Tensor) else weights
    order = np.argsort(-array, kind="stable")
    n = int(np.searchsorted(np.cumsum(array[order]), share - _ROUNDING)) + 1
    return order[: min(n, len(order))]


def generator_of(seed: int, device: torch.device) -> torch.Generator:
    """A generator for draws on a device."""
    return torch.Generator(device=device).manual_seed(seed)


def _numbers(values: Any, what: str) -> Tensor:
    plain = values.detach().cpu().numpy() if isinstance(values, Tensor) else values
    try:
        array = np.array(plain, dtype=np.float64)  # a copy: frames give memory that is read-only
    except (TypeError, ValueError):
        raise InputError(f"{what} must be numbers, in rows of equal length.") from None
    if not np.isfinite(array).all():
        raise InputError(f"{what} must be finite; they hold NaN or infinity.")
    return torch.from_numpy(array)
