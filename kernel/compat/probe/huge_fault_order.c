// SPDX-License-Identifier: GPL-2.0
#include <linux/mm.h>
vm_fault_t probe(const struct vm_operations_struct *ops, struct vm_fault *vmf, unsigned int order);
vm_fault_t probe(const struct vm_operations_struct *ops, struct vm_fault *vmf, unsigned int order)
{
	vm_fault_t (*fault)(struct vm_fault *vmf, unsigned int order) = ops->huge_fault;

	return fault(vmf, order);
}
