// SPDX-License-Identifier: Apache-2.0
// A plugin for the testbed's QEMU: counts how often each block of instructions runs between the
// marks of bench/clock.h, in whatever program, kernel or guest. Argument: path=P. The n-th window
// goes to P.n: the difference between the addresses of the emulated machine's kernel and QEMU's
// (u64), then a struct Block and its count (u64) for each block that ran. bench/profile makes,
// loads and reads it.
//
// The declarations are those of QEMU's plugin interface, version 1 (docs/devel/tcg-plugins.rst).
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef uint64_t qemu_plugin_id_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
typedef struct qemu_info_t qemu_info_t;
enum { kNoRegisters = 0, kInlineAdd = 0 };
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb*);
uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb*);
struct qemu_plugin_insn* qemu_plugin_tb_get_insn(const struct qemu_plugin_tb*, size_t);
const void* qemu_plugin_insn_data(const struct qemu_plugin_insn*);
size_t qemu_plugin_insn_size(const struct qemu_plugin_insn*);
void* qemu_plugin_insn_haddr(const struct qemu_plugin_insn*);
void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t,
                                           void (*)(qemu_plugin_id_t, struct qemu_plugin_tb*));
void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb*, int, void*, uint64_t);
void qemu_plugin_register_vcpu_insn_exec_cb(struct qemu_plugin_insn*, void (*)(unsigned, void*),
                                            int, void*);
__attribute__((visibility("default"))) int qemu_plugin_version = 1;

enum { kBlocks = 1 << 22, kCodeBytes = 16 };

struct Block {
  uint64_t vaddr;
  uint64_t haddr;
  uint32_t instructions;
  uint32_t bytes;
  uint8_t code[kCodeBytes];
};

static struct Block* blocks;
static uint64_t* counts;
static uint32_t* table;  // Of indices into blocks, by hash; 0 is free.
static uint32_t used = 1;
static uint64_t kernel_delta;
static int windows;
static const char* path;

static void Dump(void) {
  char name[4096];
  snprintf(name, sizeof name, "%s.%d", path, windows++);
  FILE* file = fopen(name, "wb");
  if (file == NULL) return;
  fwrite(&kernel_delta, sizeof kernel_delta, 1, file);
  for (uint32_t i = 1; i < used; ++i) {
    if (counts[i] == 0) continue;
    fwrite(&blocks[i], sizeof blocks[i], 1, file);
    fwrite(&counts[i], sizeof counts[i], 1, file);
  }
  fclose(file);
}

static void OnBegin(unsigned cpu, void* data) {
  (void)cpu;
  (void)data;
  memset(counts, 0, used * sizeof *counts);
}

static void OnEnd(unsigned cpu, void* data) {
  (void)cpu;
  (void)data;
  Dump();
}

static uint32_t Find(uint64_t vaddr, uint64_t haddr, uint32_t instructions, const void* data,
                     uint32_t size) {
  uint64_t h = (vaddr * 0x9e3779b97f4a7c15ull) ^ (haddr * 0xc2b2ae3d27d4eb4full) ^ instructions;
  h ^= h >> 29;
  for (uint32_t at = (uint32_t)(h % (2 * kBlocks));; at = (at + 1) % (2 * kBlocks)) {
    const uint32_t i = table[at];
    if (i == 0) {
      if (used == kBlocks) return 0;
      struct Block* b = &blocks[used];
      b->vaddr = vaddr;
      b->haddr = haddr;
      b->instructions = instructions;
      b->bytes = size;
      memcpy(b->code, data, size);
      return table[at] = used++;
    }
    if (blocks[i].vaddr == vaddr && blocks[i].haddr == haddr &&
        blocks[i].instructions == instructions && memcmp(blocks[i].code, data, size) == 0) {
      return i;
    }
  }
}

static void OnTranslate(qemu_plugin_id_t id, struct qemu_plugin_tb* tb) {
  (void)id;
  const size_t n = qemu_plugin_tb_n_insns(tb);
  const uint64_t vaddr = qemu_plugin_tb_vaddr(tb);
  struct qemu_plugin_insn* first = qemu_plugin_tb_get_insn(tb, 0);
  const uint64_t haddr = (uint64_t)(uintptr_t)qemu_plugin_insn_haddr(first);
  if (kernel_delta == 0 && vaddr >= 0xffffffff81000000ull) kernel_delta = haddr - vaddr;
  uint8_t code[kCodeBytes] = {0};
  uint32_t size = 0;
  for (size_t i = 0; i < n; ++i) {
    struct qemu_plugin_insn* insn = qemu_plugin_tb_get_insn(tb, i);
    const size_t bytes = qemu_plugin_insn_size(insn);
    const uint8_t* data = qemu_plugin_insn_data(insn);
    if (size < kCodeBytes) {
      const uint32_t more = bytes < kCodeBytes - size ? (uint32_t)bytes : kCodeBytes - size;
      memcpy(code + size, data, more);
      size += more;
    }
    // nopl 0x4850aaNN(%rax); NN is 1 to begin and 2 to end.
    static const uint8_t kMark[] = {0x0f, 0x1f, 0x80, 0, 0xaa, 0x50, 0x48};
    if (bytes == sizeof kMark && memcmp(data, kMark, 3) == 0 &&
        memcmp(data + 4, kMark + 4, 3) == 0 && (data[3] == 1 || data[3] == 2)) {
      qemu_plugin_register_vcpu_insn_exec_cb(insn, data[3] == 1 ? OnBegin : OnEnd, kNoRegisters,
                                             NULL);
    }
  }
  const uint32_t i = Find(vaddr, haddr, (uint32_t)n, code, size);
  qemu_plugin_register_vcpu_tb_exec_inline(tb, kInlineAdd, &counts[i], 1);
}

__attribute__((visibility("default"))) int qemu_plugin_install(qemu_plugin_id_t id,
                                                               const qemu_info_t* info, int argc,
                                                               char** argv) {
  (void)info;
  path = "/tmp/profile";
  for (int i = 0; i < argc; ++i) {
    if (strncmp(argv[i], "path=", 5) == 0) path = strdup(argv[i] + 5);
  }
  blocks = calloc(kBlocks, sizeof *blocks);
  counts = calloc(kBlocks, sizeof *counts);
  table = calloc(2 * kBlocks, sizeof *table);
  if (blocks == NULL || counts == NULL || table == NULL) return 1;
  qemu_plugin_register_vcpu_tb_trans_cb(id, OnTranslate);
  return 0;
}
