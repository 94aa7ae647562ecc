// SPDX-License-Identifier: GPL-2.0
/* msharefs: inodes, and the directory. */
#include <linux/fs.h>
#include <linux/pagemap.h>
#include <linux/security.h>
#include "internal.h"

/*
 * A new inode of root's.  The caller has charged it by mshare_charge_inode(),
 * unless it is a map-only handle's.
 */
struct inode *mshare_new_inode(struct super_block *sb, umode_t mode)
{
	struct inode *inode;

	inode = new_inode(sb);
	if (!inode)
		return ERR_PTR(-ENOMEM);
	inode->i_ino = get_next_ino();
	inode->i_mode = mode;
	simple_inode_init_ts(inode);
	if (S_ISDIR(mode)) {
		inode->i_op = &mshare_dir_inode_operations;
		inode->i_fop = &simple_dir_operations;
		inc_nlink(inode);
	} else {
		inode->i_op = &mshare_file_inode_operations;
		inode->i_fop = &mshare_file_operations;
		inode->i_mapping->a_ops = &mshare_aops;
		/* Pages stay where they are: keep them out of movable zones. */
		mapping_set_gfp_mask(inode->i_mapping, GFP_HIGHUSER);
		mapping_set_unevictable(inode->i_mapping);
		mapping_set_large_folios(inode->i_mapping);
	}
	return inode;
}

/* A region, of who makes it. */
static struct inode *mshare_new_region(struct inode *dir, const struct qstr *name, umode_t mode)
{
	struct inode *inode;
	int err;

	err = mshare_charge_inode(dir->i_sb);
	if (err)
		return ERR_PTR(err);
	inode = mshare_new_inode(dir->i_sb, mode | S_IFREG);
	if (IS_ERR(inode)) {
		atomic64_dec(&MSHARE_SB(dir->i_sb)->used_inodes);
		return inode;
	}
	inode_init_owner(&nop_mnt_idmap, inode, dir, mode | S_IFREG);
	MSHARE_I(inode)->huge = READ_ONCE(MSHARE_SB(dir->i_sb)->huge) == MSHARE_HUGE_ALWAYS &&
				mshare_has_huge();
	err = security_inode_init_security(inode, dir, name, NULL, NULL);
	if (err && err != -EOPNOTSUPP) {
		iput(inode);
		return ERR_PTR(err);
	}
	return inode;
}

static int mshare_create(MSHARE_CREATE_ARGS)
{
	struct inode *inode = mshare_new_region(dir, &dentry->d_name, mode);

	if (IS_ERR(inode))
		return PTR_ERR(inode);
	d_make_persistent(dentry, inode);	/* the name keeps the inode */
	mshare_touch(dir);
	return 0;
}

static int mshare_tmpfile(struct mnt_idmap *idmap, struct inode *dir,
			  struct file *file, umode_t mode)
{
	struct inode *inode = mshare_new_region(dir, NULL, mode);

	if (IS_ERR(inode))
		return finish_open_simple(file, PTR_ERR(inode));
	d_tmpfile(file, inode);
	return finish_open_simple(file, 0);
}

/* A flat directory of regular files: no subdirectories, links to names, devices. */
const struct inode_operations mshare_dir_inode_operations = {
	.create		= mshare_create,
	.lookup		= simple_lookup,
	.link		= simple_link,
	.unlink		= simple_unlink,
	.rename		= simple_rename,
	.tmpfile	= mshare_tmpfile,
};

static ssize_t mshare_info_read(struct file *file, char __user *buf, size_t len, loff_t *pos)
{
	char text[24];
	int n = scnprintf(text, sizeof(text), "%llu\n", MSHARE_UNIT);

	return simple_read_from_buffer(buf, len, pos, text, n);
}

static const struct file_operations mshare_info_operations = {
	.owner	= THIS_MODULE,
	.read	= mshare_info_read,
	.llseek	= default_llseek,
};

/* mshare_info: the alignment of addresses and lengths, in bytes, as decimal text. */
int mshare_make_info_file(struct super_block *sb)
{
	struct dentry *dentry;
	struct inode *inode;
	int err;

	err = mshare_charge_inode(sb);
	if (err)
		return err;
	inode = mshare_new_inode(sb, S_IFREG | 0444);
	if (IS_ERR(inode)) {
		atomic64_dec(&MSHARE_SB(sb)->used_inodes);
		return PTR_ERR(inode);
	}
	inode->i_fop = &mshare_info_operations;
	/* Not removed or renamed, not even by the owner of the directory. */
	inode->i_flags |= S_IMMUTABLE;
	dentry = d_alloc_name(sb->s_root, "mshare_info");
	if (!dentry) {
		iput(inode);
		return -ENOMEM;
	}
	d_make_persistent(dentry, inode);
	dput(dentry);
	return 0;
}
