"""ESI masks: the few weights of a model on which its safety depends most.

Source: Qi, Wu, Zheng, Zhang, Jia, Qin, Ren, "Towards Identification and Intervention of
Safety-Critical Parameters in Large Language Models", arXiv 2604.08297. With S a differentiable
score of safety, the expected safety impact of weight i of a matrix W is::

    ESI_i = |sigma(W) * dS/dtheta_i|

and the mask holds the k weights of the whole model with the largest.

What stands behind the six verbs:

======================  ============================================================================
what is addressed       ``_matrices`` and ``_fused``: the logical matrices of a model, and where
                        files and live models hold them
``body``                ``_packed`` on ``_gap8`` (which weights), ``_values`` (what they hold),
                        ``_rules``; for people ``_presentation``, ``_charts``, ``_portions``
``extract``             ``_candidates``, ``_scores``, ``_gradients``, ``_impact``, ``_topk``, in the
                        order of use; ``_shards`` and ``_across`` where the model is sharded over
                        processes, ``_kept_sums`` where a run was interrupted; ``_imported`` and
                        ``_sources`` for the authors' files
``guard``               ``_preserve`` (SPA) and ``_enhance`` (SET), on ``_selected``, ``_places``,
                        ``_baseline``, ``_unselected``; ``_trained`` and ``_guard_reports`` after it
``apply``, ``verify``   ``_live`` and ``_targets``: what must be there, and what is
``inspect``             ``_stored``, ``_judged``, ``_sampled_share``: the same of files;
                        ``_patches`` writes it
======================  ============================================================================
"""
