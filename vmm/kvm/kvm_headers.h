// SPDX-License-Identifier: Apache-2.0
// <linux/kvm.h> with the layout C gives it. Several of its structs end in a flexible array that
// linux/stddef.h wraps with an empty struct; in C++ that has size 1, so sizeof, and with it the
// ioctl's number, would differ from the kernel's. Always include this file, never the original.
#pragma once

#include <linux/stddef.h>

#undef __DECLARE_FLEX_ARRAY
// NOLINTNEXTLINE(bugprone-reserved-identifier)
#define __DECLARE_FLEX_ARRAY(TYPE, NAME) TYPE NAME[0]
#include <linux/kvm.h>

static_assert(sizeof(kvm_cpuid2) == 8);
static_assert(sizeof(kvm_msrs) == 8);
static_assert(sizeof(kvm_msr_list) == 4);
static_assert(sizeof(kvm_signal_mask) == 4);
static_assert(sizeof(kvm_irq_routing) == 8);
static_assert(sizeof(kvm_xsave) == 4096);
