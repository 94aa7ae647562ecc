/* SPDX-License-Identifier: GPL-2.0 */
/* Found only where the kernel has no such header (before 7.2). */
#include <linux/pagevec.h>
