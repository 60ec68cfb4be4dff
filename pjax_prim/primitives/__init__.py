"""One file per projection: its primitive, its reference and the function that users call.

For each primitive `<function>_p` is its `Definition`; `pjax_prim.lowering` gives it lowerings.
"""

from ._definition import DEFINITIONS as DEFINITIONS
from ._definition import Definition as Definition
from ._definition import define as define
from .affine import project_affine as project_affine
from .affine import project_affine_p as project_affine_p
from .affine import project_combination as project_combination
from .affine import project_combination_p as project_combination_p
from .affine import project_mean as project_mean
from .affine import project_mean_p as project_mean_p
from .affine import project_scale as project_scale
from .affine import project_scale_p as project_scale_p
from .cross_entropy import cross_entropy as cross_entropy
from .cross_entropy import cross_entropy_p as cross_entropy_p
from .cross_entropy import prox_cross_entropy as prox_cross_entropy
from .cross_entropy import prox_cross_entropy_p as prox_cross_entropy_p
from .dot import project_dot as project_dot
from .dot import project_dot_p as project_dot_p
from .equality import equality as equality
from .equality import equality_p as equality_p
from .equality import project_equality as project_equality
from .equality import project_equality_p as project_equality_p
from .identity import project_identity as project_identity
from .identity import project_identity_p as project_identity_p
from .margin import margin_loss as margin_loss
from .margin import margin_loss_p as margin_loss_p
from .margin import project_margin as project_margin
from .margin import project_margin_p as project_margin_p
from .max import project_max as project_max
from .max import project_max_p as project_max_p
from .mean_rows import mean_rows_p as mean_rows_p
from .product import project_product as project_product
from .product import project_product_p as project_product_p
from .quantize import project_quantize as project_quantize
from .quantize import project_quantize_p as project_quantize_p
from .quantize import quantize as quantize
from .quantize import quantize_p as quantize_p
from .reflect_dot import displace_dot_p as displace_dot_p
from .reflect_dot import leave_dot_p as leave_dot_p
from .reflect_dot import reflect_dot_p as reflect_dot_p
from .sign import project_sign as project_sign
from .sign import project_sign_p as project_sign_p
from .squared_error import prox_squared_error as prox_squared_error
from .squared_error import prox_squared_error_p as prox_squared_error_p
from .squared_error import squared_error as squared_error
from .squared_error import squared_error_p as squared_error_p
from .sum import project_sum as project_sum
from .sum import project_sum_p as project_sum_p
from .sum_relu import project_sum_relu as project_sum_relu
from .sum_relu import project_sum_relu_p as project_sum_relu_p
from .sum_relu import sum_relu as sum_relu
from .sum_relu import sum_relu_p as sum_relu_p
