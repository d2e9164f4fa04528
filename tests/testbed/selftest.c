// SPDX-License-Identifier: Apache-2.0
// Run inside the testbed by selftest: a KVM machine whose guest adds two numbers, writes the sum
// to a port and halts. It proves that this /dev/kvm really runs guests, not only that it opens.
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

static int fail(const char *what) {
  perror(what);
  return 1;
}

int main(void) {
  // mov dx, 0x3f8; add al, bl; out dx, al; hlt (real mode)
  static const unsigned char code[] = {0xba, 0xf8, 0x03, 0x00, 0xd8, 0xee, 0xf4};
  int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
  if (kvm < 0) return fail("open /dev/kvm");
  if (ioctl(kvm, KVM_GET_API_VERSION, 0) != KVM_API_VERSION) return fail("KVM_GET_API_VERSION");
  int vm = ioctl(kvm, KVM_CREATE_VM, 0);
  if (vm < 0) return fail("KVM_CREATE_VM");
  void *memory = mmap(NULL, 0x1000, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return fail("mmap");
  memcpy(memory, code, sizeof code);
  struct kvm_userspace_memory_region region = {
      .guest_phys_addr = 0x1000, .memory_size = 0x1000, .userspace_addr = (unsigned long)memory};
  if (ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region) < 0) return fail("KVM_SET_USER_MEMORY_REGION");
  int vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
  if (vcpu < 0) return fail("KVM_CREATE_VCPU");
  int run_bytes = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
  struct kvm_run *run = mmap(NULL, run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
  if (run == MAP_FAILED) return fail("mmap of the vCPU");
  struct kvm_sregs sregs;
  if (ioctl(vcpu, KVM_GET_SREGS, &sregs) < 0) return fail("KVM_GET_SREGS");
  sregs.cs.base = 0;
  sregs.cs.selector = 0;
  if (ioctl(vcpu, KVM_SET_SREGS, &sregs) < 0) return fail("KVM_SET_SREGS");
  struct kvm_regs regs = {.rip = 0x1000, .rax = 40, .rbx = 2, .rflags = 2};
  if (ioctl(vcpu, KVM_SET_REGS, &regs) < 0) return fail("KVM_SET_REGS");
  for (;;) {
    if (ioctl(vcpu, KVM_RUN, 0) < 0) return fail("KVM_RUN");
    if (run->exit_reason == KVM_EXIT_HLT) return 0;
    if (run->exit_reason != KVM_EXIT_IO) {
      fprintf(stderr, "exit reason %u\n", run->exit_reason);
      return 1;
    }
    printf("the guest says %u\n", *((unsigned char *)run + run->io.data_offset));
  }
}
