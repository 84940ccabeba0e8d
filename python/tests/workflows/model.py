"""A UnionML app whose data is read and whose model is trained by a backend plugin.

UnionML looks at annotations as they stand, so they are not postponed here.
"""

import os
from typing import List

import pandas as pd
from on_process import OnProcess
from sklearn.linear_model import LogisticRegression
from unionml import Dataset, Model

dataset = Dataset(name="points", test_size=0.2, shuffle=True, targets=["target"])
model = Model(name="classifier", init=LogisticRegression, hyperparameter_config={"C": float}, dataset=dataset)


@dataset.reader(task_config=OnProcess())
def reader(rows: int) -> pd.DataFrame:
    if rows == 0:
        raise ValueError("there are no rows")
    return pd.DataFrame({"x": range(rows), "target": [int(i > rows / 2) for i in range(rows)]})


@model.trainer(task_config=OnProcess())
def trainer(estimator: LogisticRegression, features: pd.DataFrame, target: pd.DataFrame) -> LogisticRegression:
    estimator.trained_in_ = os.getpid()
    return estimator.fit(features, target.squeeze())


@model.predictor(task_config=OnProcess())
def predictor(estimator: LogisticRegression, features: pd.DataFrame) -> List[float]:
    return [float(x) for x in estimator.predict(features)]


@model.evaluator
def evaluator(estimator: LogisticRegression, features: pd.DataFrame, target: pd.DataFrame) -> float:
    return float(estimator.score(features, target.squeeze()))
