"""What every posterior answers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from mogul.covariances import Covariance
from mogul.data.rows import Rows
from mogul.errors import InputError, UnknownNameError
from mogul.mixture import Mixture
from mogul.posterior.quantities import PARAMETERS, Quantity, quantity
from mogul.predictive import PredictiveMixture

__all__ = ["CORRECTIONS", "Posterior"]

CORRECTIONS = ("none", "linear_response")


class Posterior(Mapping[str, Distribution]):
    """What is known of the parameters of a mixture once rows have been seen.

    A mapping from "weights", "means" and "precisions" to ``torch.distributions`` objects. Other
    methods also know "log_weights", "covariances", "standard_deviations" and, where precisions are
    numbers, "log_precisions". Shapes are scikit-learn's for the covariance structure.

    Examples
    --------
    >>> from mogul import BayesianGaussianMixture, datasets
    >>> model = BayesianGaussianMixture(2, random_state=0).fit(datasets.old_faithful().values)
    >>> posterior = model.posterior_
    >>> list(posterior)
    ['weights', 'means', 'precisions']
    >>> posterior.interval("weights", correction="linear_response").shape
    torch.Size([2, 2])
    >>> posterior.sample(3)
    Mixture(n_components=2, n_features=2, covariance_type='full', batch_shape=(3,))
    """

    feature_names: tuple[str, ...] | None

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

    # --- moments --------------------------------------------------------------------------------

    @abstractmethod
    def mean(self) -> Mixture:
        """The mixture of the expected weights, means and precisions."""

    @abstractmethod
    def expectation(self, name: str) -> Tensor:
        """The posterior mean of a quantity."""

    @abstractmethod
    def std(self, name: str, correction: str = "none") -> Tensor:
        """The posterior standard deviation of each entry of a quantity.

        Parameters
        ----------
        name : str
        correction : {"none", "linear_response"}, default "none"
            Mean-field posteriors are too narrow where components overlap; "linear_response" adds
            what is missing (Giordano, Broderick and Jordan 2018).
        """

    def interval(self, name: str, level: float = 0.95, correction: str = "none") -> Tensor:
        """Equal-tailed credible intervals of each entry of a quantity, (*shape, 2).

        Of the marginal distribution that the approximation has (Student t or normal, Gamma, Beta,
        inverse Gamma; normal for entries off the diagonal of a matrix), with the variance of the
        correction where one is asked for.
        """
        if not 0 < level < 1:
            raise InputError(f"level must lie strictly between 0 and 1; got {level}.")
        self._before([name], correction)
        tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
        return self._quantiles(name, tails, correction)

    def quantiles(
        self, name: str, probabilities: Sequence[float], correction: str = "none"
    ) -> Tensor:
        """Quantiles of each entry of a quantity, (*shape, P); see :meth:`interval`."""
        p = torch.as_tensor(probabilities, dtype=torch.float64)
        if not bool(((p > 0) & (p < 1)).all()):
            raise InputError("Probabilities must lie strictly between 0 and 1.")
        self._before([name], correction)
        return self._quantiles(name, p, correction)

    def _before(self, names: Sequence[str], correction: str) -> None:
        """Refuse a quantity or a correction that there is not; called by what the user calls."""
        for name in names:
            self._quantity(name)
        if correction not in CORRECTIONS:
            raise UnknownNameError(
                f"The correction {correction!r} is unknown; choose one of "
                f"{', '.join(map(repr, CORRECTIONS))}."
            )

    @abstractmethod
    def _quantiles(self, name: str, probabilities: Tensor, correction: str) -> Tensor: ...

    @abstractmethod
    def covariance(self, names: str | Sequence[str], correction: str = "none") -> Tensor:
        """The covariance of the entries of one or several quantities, (Q, Q).

        In the order of :meth:`entries`; of a symmetric matrix only one half is listed.
        """

    @abstractmethod
    def entries(self, names: str | Sequence[str]) -> list[str]:
        """What each row of :meth:`covariance` is, such as ``means[0, 1]``."""

    # --- draws ----------------------------------------------------------------------------------

    @abstractmethod
    def sample(
        self, n: int = 1000, *, generator: torch.Generator | None = None, seed: int = 0
    ) -> Mixture:
        """Mixtures drawn from the posterior, batch shape (n,)."""

    def draw(self, name: str, n: int = 1000, *, seed: int = 0) -> Tensor:
        """Draws of a quantity, (n, *shape)."""
        return self._quantity(name).of(self.sample(n, seed=seed))

    @abstractmethod
    def log_prob(self, mixture: Mixture) -> Tensor:
        """The log-density of a mixture's parameters under this posterior, in nats; (*batch)."""

    @abstractmethod
    def predictive(self) -> PredictiveMixture:
        """The density of a new row, averaged over the posterior."""

    @abstractmethod
    def relabel(self, method: str = "pivot") -> Posterior:
        """The same draws with their components in one order; see ``SampledPosterior.relabel``."""

    @abstractmethod
    def to_arviz(self, n: int = 1000, *, seed: int = 0) -> Any:
        """As an ArviZ ``DataTree``; needs the extra ``bayes``."""

    @abstractmethod
    def to_state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """A header (JSON types) and named tensors, without the rows; for files."""

    # --- help for the two kinds -----------------------------------------------------------------

    def _quantity(self, name: Any) -> Quantity:
        return quantity(name, self.kind)

    @staticmethod
    def _names(names: str | Sequence[str]) -> list[str]:
        found = [names] if isinstance(names, str) else list(names)
        if not found or len(set(found)) != len(found):
            raise InputError(f"Name at least one quantity, each but once; got {found}.")
        return found

    @staticmethod
    def _check_count(n: Any) -> int:
        if isinstance(n, bool) or int(n) != n or n < 1:
            raise InputError(f"The number of draws must be a whole number from 1 on; got {n!r}.")
        return int(n)

    def _training_rows(self, rows: Rows | None, wanted: str) -> Rows:
        if rows is None:
            raise InputError(
                f"{wanted} needs the rows that were fitted, and this posterior does not have them; "
                "give them by posterior.with_rows(X)."
            )
        return rows


def generator_of(seed: int, device: torch.device) -> torch.Generator:
    """A generator for draws on a device."""
    return torch.Generator(device=device).manual_seed(seed)
