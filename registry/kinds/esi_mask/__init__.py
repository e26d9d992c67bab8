"""ESI masks: the few weights of a model on which its safety depends most.

Source: Qi, Wu, Zheng, Zhang, Jia, Qin, Ren, "Towards Identification and Intervention of
Safety-Critical Parameters in Large Language Models", arXiv 2604.08297. With S a differentiable
score of safety, the expected safety impact of weight i of a matrix W is::

    ESI_i = |sigma(W) * dS/dtheta_i|

and the mask holds the k weights of the whole model with the largest.
"""
