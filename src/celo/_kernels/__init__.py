"""What learned rules compute for one tensor: statistics, the rule's network, and their native form in C++.

Here: functions of arrays, JAX form beside native form, and how tensors are stacked to be computed together.
Whole optimizers live in `celo.optimizers`; nothing here is for users.
"""
