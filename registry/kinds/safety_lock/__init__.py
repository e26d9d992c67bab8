"""SafetyLock: per-head directions toward refusal, added in front of the attention output.

Source: Zhu, Yang, Wei, Zhang, Zhang, "Locking Down the Finetuned LLMs Safety", arXiv 2410.10343.
At each chosen query head h of layer l and at every position::

    a_l^h  <-  a_l^h + alpha * sigma_l^h * theta_l^h            (form "constant")

where ``a_l^h`` [head_dim] is the head's slice of the concatenated attention output in front of
the output projection W_o. As W_o is linear this equals a constant bias on its output::

    b_l = sum_h  alpha * sigma_l^h * W_o[:, h*head_dim:(h+1)*head_dim] @ theta_l^h
"""
