"""Stage: a policy and a target domain's dataset in, the policy tuned for that domain out."""
