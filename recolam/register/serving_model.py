"""What MLflow runs to load a registered policy (models from code). Nothing else imports this file."""

from mlflow.models import set_model

from recolam.register.serving import SlateModel

set_model(SlateModel())  # a side effect at import, which is how models from code hand over their model
