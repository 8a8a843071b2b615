"""What ``gpu.py`` measures, a module for each part; the part's process is ``python -m on_gpu``.

place        where a part runs: the device, the clock, and the file of results
shapes       models and data whose steps are timed
against      1,500 rounds of W1: simfl, bare loops and pfl-research, in turns
stacking     a client's step by the size of its stack, and the rule that follows
recording    CUDA graphs and torch.compile for a stacked step
waiting      where simfl makes the host wait for the GPU
fitting      memory: what simfl predicts, and what is used
reading      batches of examples on the device, and of moved ones; evaluation
sharing      several client actors on one GPU
"""
